"""Train the demo model: ``python -m hyperscene_plugin.demo_model.train --out DIR`` (seeded; resumes after a kill).

A run lives in one folder: ``checkpoint.safetensors`` (everything needed to go on), ``log.jsonl`` (the curve) and
``weights/`` (what evaluation and loading use: bf16 averaged weights, config, tokenizer).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hyperscene_plugin.demo_model import weights_path
from hyperscene_plugin.demo_model.checkpoint import load_checkpoint, restore_optimizer, save_checkpoint
from hyperscene_plugin.demo_model.curriculum import STAGES
from hyperscene_plugin.demo_model.data import Mix, Sampler, load_passages
from hyperscene_plugin.demo_model.initialisation import initialise, make_config
from hyperscene_plugin.demo_model.tokenizer import build_tokenizer, load_tokenizer


@dataclass
class Settings:
    """Everything that decides a run; saved with it."""

    steps: int = 3000
    tokens: int = 4096
    lr: float = 1e-3
    final_lr: float = 0.1
    warmup: int = 100
    average: float = 0.995
    weight_decay: float = 0.01
    seed: int = 0
    stage: int = 0
    eval_every: int = 100
    save_every: int = 50
    structured: bool = True


def answers_correct(model: LlamaForCausalLM, batch: dict[str, torch.Tensor], end: int) -> tuple[int, int]:
    """Answers whose every token (and the end token) is the model's top choice given the ones before: (right, all).

    This equals greedy exact match, as greedy decoding follows the gold answer exactly while each top choice is gold.
    """
    ids, weights = batch["ids"], batch["weights"]
    with torch.no_grad():
        hidden = _hidden(model, batch)
        wanted = weights[:, 1:] >= 0.2
        hit = torch.zeros_like(wanted)
        hit[wanted] = model.lm_head(hidden[wanted]).argmax(-1) == ids[:, 1:][wanted]
    right = total = 0
    for row_wanted, row_hit, row_ids in zip(wanted.tolist(), hit.tolist(), ids[:, 1:].tolist(), strict=True):
        good = True
        for want, ok, token in zip(row_wanted, row_hit, row_ids, strict=True):
            if want:
                good = good and ok
                if token == end:
                    right, total, good = right + good, total + 1, True
    return right, total


def _hidden(model: LlamaForCausalLM, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    # An explicit mask: without one, gaps in the positions would be taken for borders between packed sequences.
    output = model.model(batch["ids"], position_ids=batch["positions"], attention_mask=torch.ones_like(batch["ids"]))
    hidden: torch.Tensor = output.last_hidden_state
    return hidden[:, :-1]


def loss_of(model: LlamaForCausalLM, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Weighted mean cross-entropy over the tokens with a loss weight (scalar)."""
    weights = batch["weights"][:, 1:]
    chosen = weights > 0
    logits = model.lm_head(_hidden(model, batch)[chosen])
    each = cross_entropy(logits.float(), batch["ids"][:, 1:][chosen], reduction="none")
    return (each * weights[chosen]).sum() / weights[chosen].sum()


class Trainer:
    """One run: model, averaged weights, optimizer, data stream and curriculum stage."""

    def __init__(self, out: Path, settings: Settings, device: str = "auto", from_shipped: bool = False) -> None:
        self.out, self.settings = out, settings
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        book, passages = load_passages()
        self.tokenizer = self._tokenizer(book, from_shipped)
        self.sampler = Sampler(self.tokenizer, passages)
        self.judge = Sampler(self.tokenizer, passages, held_out=True)
        self.rng = random.Random(settings.seed)
        self.step, self.stage, self.seconds, self.seen = 0, settings.stage, 0.0, 0
        self.curve: list[dict[str, Any]] = []
        torch.manual_seed(settings.seed)
        self.model = LlamaForCausalLM(make_config(self.tokenizer))
        if from_shipped:
            state = load_file(weights_path() / "model.safetensors")
            self.model.load_state_dict({k: v.float() for k, v in state.items()}, strict=False)
            self.model.tie_weights()
        elif settings.structured:
            calibration = self.sampler.batch(random.Random(settings.seed), Mix(), 4096)
            initialise(self.model, self.tokenizer, calibration["ids"], settings.seed)
        self.model.to(torch.device(self.device))  # type: ignore[arg-type]
        self.model.train()
        self.averaged = {k: v.detach().clone() for k, v in self.model.named_parameters()}
        matrices = [p for p in self.model.parameters() if p.dim() == 2]
        vectors = [p for p in self.model.parameters() if p.dim() < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=settings.lr,
            betas=(0.9, 0.98),
        )

    def _tokenizer(self, book: str, from_shipped: bool) -> PreTrainedTokenizerFast:
        """The run's own tokenizer, else the shipped one (token ids must not change under weights), else a new one."""
        for folder in (self.out / "tokenizer", weights_path() if from_shipped else self.out / "tokenizer"):
            if (folder / "tokenizer.json").exists():
                return load_tokenizer(folder)
        tokenizer = build_tokenizer(book)
        tokenizer.save_pretrained(self.out / "tokenizer")
        return tokenizer

    @property
    def checkpoint(self) -> Path:
        """Where the run's checkpoint is."""
        return self.out / "checkpoint.safetensors"

    def resume(self) -> None:
        """Go on from the folder's checkpoint: weights, moments, data stream, stage and step."""
        parts, state = load_checkpoint(self.checkpoint)
        self.model.load_state_dict(parts["weights"], strict=False)
        self.model.tie_weights()
        self.averaged = {k: v.to(self.device) for k, v in parts["averaged"].items()}
        restore_optimizer(self.optimizer, parts["optimizer"])
        kind, numbers, gauss = state["rng"]
        self.rng.setstate((kind, tuple(numbers), gauss))
        self.step, self.stage, self.seconds = state["step"], max(state["stage"], self.settings.stage), state["seconds"]
        self.seen, self.curve = state["seen"], state["curve"]

    def save(self) -> None:
        """Write the checkpoint (atomically)."""
        kind, numbers, gauss = self.rng.getstate()
        state = {
            "rng": [kind, list(numbers), gauss],
            "step": self.step,
            "stage": self.stage,
            "seconds": self.seconds,
            "seen": self.seen,
            "curve": self.curve,
            "settings": asdict(self.settings),
        }
        save_checkpoint(self.checkpoint, dict(self.model.named_parameters()), self.averaged, self.optimizer, state)

    def export(self, folder: Path) -> None:
        """Write the averaged weights as a bf16 `from_pretrained` folder, with tokenizer and training report."""
        folder.mkdir(parents=True, exist_ok=True)
        model = LlamaForCausalLM(self.model.config)
        model.load_state_dict(self.averaged, strict=False)
        model.tie_weights()
        model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=False,
            max_new_tokens=64,
            bos_token_id=self.tokenizer.bos_token_id,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        model.to(torch.bfloat16)  # type: ignore[arg-type]
        model.save_pretrained(folder)
        (folder / "model.safetensors").chmod(0o644)
        self.tokenizer.save_pretrained(folder)
        report = {
            "settings": asdict(self.settings),
            "steps": self.step,
            "tokens": self.seen,
            "hours": round(self.seconds / 3600, 2),
            "curve": self.curve,
        }
        (folder / "training_report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    def learning_rate(self) -> float:
        """Warm-up, then a cosine to ``lr * final_lr`` at the last step."""
        done = min(1.0, self.step / max(1, self.settings.steps))
        cosine = self.settings.final_lr + (1 - self.settings.final_lr) * (1 + math.cos(math.pi * done)) / 2
        return self.settings.lr * cosine * min(1.0, (self.step + 1) / self.settings.warmup)

    def train_step(self) -> float:
        """One optimizer step; returns the loss."""
        stage = STAGES[self.stage]
        if self.stage and self.rng.random() < 0.5:  # keep the earlier stages fresh
            stage = STAGES[self.rng.randrange(self.stage)]
        batch = self.sampler.batch(self.rng, stage.mix, self.settings.tokens)
        self.seen += batch["ids"].numel()
        loss = loss_of(self.model, {k: v.to(self.device) for k, v in batch.items()})
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.step()
        self.step += 1
        keep = min(self.settings.average, self.step / (self.step + 20))
        with torch.no_grad():
            for name, weight in self.model.named_parameters():
                self.averaged[name].lerp_(weight, 1 - keep)
        return float(loss.detach())

    def judge_step(self, tokens: int = 12000) -> float:
        """Held-out exact accuracy of the averaged weights on the current stage's mix."""
        live = {k: v.detach().clone() for k, v in self.model.named_parameters()}
        self.model.load_state_dict(self.averaged, strict=False)
        self.model.train(False)
        mix = Mix(**{**asdict(STAGES[self.stage].mix), "gap": 0.0, "lm_share": 0.0, "quote": 0.0, "repeat": 0.0})
        right = total = 0
        rng = random.Random(self.settings.seed + 1000 + self.step)
        for _ in range(max(1, tokens // self.settings.tokens)):
            batch = self.judge.batch(rng, mix, self.settings.tokens)
            done = answers_correct(self.model, {k: v.to(self.device) for k, v in batch.items()}, self.judge.end)
            right, total = right + done[0], total + done[1]
        self.model.load_state_dict(live, strict=False)
        self.model.train()
        return right / max(1, total)

    def run(self, minutes: float = math.inf) -> None:
        """Train until the last step or for `minutes`; prints a line per evaluation and keeps the checkpoint fresh."""
        started, began, loss = time.perf_counter(), self.seconds, 0.0
        mean, first, first_seen = math.nan, self.step, self.seen
        while self.step < self.settings.steps and time.perf_counter() - started < minutes * 60:
            loss = self.train_step()
            mean = loss if math.isnan(mean) else 0.95 * mean + 0.05 * loss
            self.seconds = began + time.perf_counter() - started
            if self.step % self.settings.eval_every == 0:
                accuracy = self.judge_step()
                spent = time.perf_counter() - started
                rate = (self.seen - first_seen) / spent
                left = spent / (self.step - first) * (self.settings.steps - self.step) / 60
                entry = {
                    "step": self.step,
                    "stage": self.stage,
                    "loss": round(mean, 4),
                    "held_out_exact": round(accuracy, 4),
                    "tokens": self.seen,
                    "minutes": round(self.seconds / 60, 1),
                }
                self.curve.append(entry)
                print(json.dumps(entry), f"{rate:.0f} tok/s, {left:.0f} min left", flush=True)
                if accuracy >= STAGES[self.stage].pass_mark and self.stage + 1 < len(STAGES):
                    self.stage += 1
            if self.step % self.settings.save_every == 0:
                self.save()
                if self.step % (self.settings.save_every * 4) == 0:
                    self.export(self.out / "weights")
        self.save()
        self.export(self.out / "weights")


def main(argv: Sequence[str] | None = None) -> None:
    """Command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m hyperscene_plugin.demo_model.train", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("demo-model-run"), help="the run's folder (default: %(default)s)"
    )
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after this long; run again to go on")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto (default)")
    parser.add_argument("--from-shipped", action="store_true", help="start from the shipped weights instead of afresh")
    parser.add_argument("--fresh", action="store_true", help="discard the folder's checkpoint")
    parser.add_argument("--random-init", action="store_true", help="no structured initialisation (the control run)")
    parser.add_argument(
        "--cuda-preset", action="store_true", help="settings for a GPU: 32k tokens a step, 20,000 steps"
    )
    for name, kind in (
        ("steps", int),
        ("tokens", int),
        ("lr", float),
        ("warmup", int),
        ("seed", int),
        ("stage", int),
        ("eval_every", int),
        ("average", float),
        ("final_lr", float),
    ):
        parser.add_argument("--" + name.replace("_", "-"), type=kind, default=None)
    args = parser.parse_args(argv)
    chosen: dict[str, Any] = {"steps": 20000, "tokens": 32768} if args.cuda_preset else {}
    for name in ("steps", "tokens", "lr", "warmup", "seed", "stage", "eval_every", "average", "final_lr"):
        if getattr(args, name) is not None:
            chosen[name] = getattr(args, name)
    if args.fresh and args.out.exists():
        shutil.rmtree(args.out)
    trainer = Trainer(args.out, Settings(structured=not args.random_init, **chosen), args.device, args.from_shipped)
    if trainer.checkpoint.exists():
        trainer.resume()
        print(f"resumed at step {trainer.step}", flush=True)
    trainer.run(args.minutes)


if __name__ == "__main__":
    main()
