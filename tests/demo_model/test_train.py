"""Training: a killed run goes on exactly as if it had not been; damaged checkpoints are refused; exports load."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from hyperscene_plugin.demo_model import weights_path
from hyperscene_plugin.demo_model.checkpoint import load_checkpoint
from hyperscene_plugin.demo_model.data import Mix
from hyperscene_plugin.demo_model.tokenizer import load_tokenizer
from hyperscene_plugin.demo_model.train import Settings, Trainer, answers_correct
from hyperscene_plugin.errors import StoreCorruptError

SETTINGS = Settings(steps=3, tokens=512, warmup=2, save_every=1, eval_every=100, structured=False)


def make_trainer(folder: Path, settings: Settings = SETTINGS) -> Trainer:
    """A run in `folder` that takes the shipped tokenizer instead of training one."""
    load_tokenizer(weights_path()).save_pretrained(folder / "tokenizer")
    return Trainer(folder, settings)


def test_kill_and_resume_gives_the_same_weights(tmp_path: Path) -> None:
    whole = make_trainer(tmp_path / "whole")
    for _ in range(3):
        whole.train_step()
    cut = make_trainer(tmp_path / "cut")
    cut.train_step()
    cut.save()
    cut.train_step()  # lost by the kill
    again = make_trainer(tmp_path / "cut")
    again.resume()
    assert again.step == 1
    for _ in range(2):
        again.train_step()
    for (name, a), (_, b) in zip(whole.model.named_parameters(), again.model.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    for name, value in whole.averaged.items():
        assert torch.equal(value, again.averaged[name]), name


def test_three_steps_change_the_weights_and_the_export_loads(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    before = {k: v.detach().clone() for k, v in trainer.model.named_parameters()}
    trainer.run()
    assert any(not torch.equal(before[k], v) for k, v in trainer.model.named_parameters())
    loaded = LlamaForCausalLM.from_pretrained(tmp_path / "weights", dtype=torch.float32)
    assert loaded.config.tie_word_embeddings
    report = json.loads((tmp_path / "weights" / "training_report.json").read_text(encoding="utf-8"))
    assert report["steps"] == 3


def test_the_structured_start_reads_before_any_training(tmp_path: Path) -> None:
    mix = Mix(max_tokens=256, lm_share=0.0, value_first=0.0)
    firsts = []
    for structured in (True, False):
        trainer = make_trainer(tmp_path / str(structured), Settings(structured=structured))
        batch = trainer.judge.batch(random.Random(0), mix, 4000)
        with torch.no_grad():
            top = trainer.model(batch["ids"]).logits[:, :-1].argmax(-1)
        starts = batch["ids"][:, :-1] == trainer.judge.assistant
        firsts.append((top[starts] == batch["ids"][:, 1:][starts]).float().mean().item())
    assert firsts[0] > 0.5
    assert firsts[1] < 0.1


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00 not json at all")
    with pytest.raises(StoreCorruptError, match="delete it"):
        load_checkpoint(path)


def test_gaps_in_positions_stay_causal_and_in_range(tmp_path: Path) -> None:
    sampler = make_trainer(tmp_path).sampler
    batch = sampler.batch(random.Random(0), Mix(gap=1.0), 4000)
    steps = batch["positions"].diff(dim=1)
    assert (steps >= 1).all()
    assert (steps > 1).any()
    assert batch["positions"].max() < 4096


def test_an_untrained_model_answers_nothing(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    batch = trainer.judge.batch(random.Random(0), Mix(lm_share=0.0), 4000)
    right, total = answers_correct(trainer.model, batch, trainer.judge.end)
    assert total > 20
    assert right == 0
