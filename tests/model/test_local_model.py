"""LocalModel on a tiny random Llama: the same tokens as transformers' own generate, streamed, stopped, counted."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

from hyperscene_plugin import Message
from hyperscene_plugin.errors import InputError, ModelError
from hyperscene_plugin.model import GenerationOptions, LanguageModel
from hyperscene_plugin.model.template import PLAIN_FORMAT_NOTE, SYSTEM_FOLDED_NOTE
from tests.tiny_model import save_tiny_model

QUESTION = [Message("system", "be brief"), Message("user", "what is a scene?")]
SHORT = GenerationOptions(max_new_tokens=12)


def oracle_ids(local, prompt_ids, count):
    """Greedy decoding by whole forward passes, no cache, no generate()."""
    ids = list(prompt_ids)
    for _ in range(count):
        with torch.no_grad():
            logits = local.model(torch.tensor([ids])).logits
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] in local._eos_ids():
            break
    return ids[len(prompt_ids) :]


def test_it_is_a_language_model(tiny_model):
    assert isinstance(tiny_model, LanguageModel)


def test_greedy_text_equals_full_forward_oracle(tiny_model):
    result = tiny_model.generate(QUESTION, SHORT)
    ids = tiny_model.tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in QUESTION], add_generation_prompt=True, return_dict=True
    )["input_ids"]
    expected = oracle_ids(tiny_model, ids, 12)
    assert result.text == tiny_model.tokenizer.decode(expected, skip_special_tokens=True)
    assert result.usage.prompt_tokens == len(ids) == tiny_model.count_prompt_tokens(QUESTION)
    assert result.usage.completion_tokens == len(expected)


def test_chunks_join_to_the_text(tiny_model):
    chunks = list(tiny_model.stream(QUESTION, SHORT))
    assert chunks[-1].result is not None
    assert "".join(chunk.text for chunk in chunks) == chunks[-1].result.text
    assert all(chunk.result is None for chunk in chunks[:-1])
    assert 0 < chunks[-1].result.usage.seconds_to_first_token <= chunks[-1].result.usage.seconds


def test_kv_bytes_equal_the_real_cache(tiny_model):
    prompt = torch.tensor([[5, 6, 7, 8, 9]])
    cache = tiny_model.model(prompt, use_cache=True).past_key_values
    real = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert tiny_model.kv_bytes_per_token * 5 == real


def test_a_stop_string_ends_the_text_and_is_not_in_it(tiny_model):
    whole = tiny_model.generate("a scene", SHORT).text
    stop = whole[3:5]
    result = tiny_model.generate("a scene", replace(SHORT, stop=(stop,)))
    assert result.text == whole[: whole.index(stop)]
    assert result.finish_reason == "stop"


def test_length_is_reported_and_window_cuts_are_noted(tiny_model):
    result = tiny_model.generate("a scene", GenerationOptions(max_new_tokens=2))
    assert (result.finish_reason, result.usage.completion_tokens) == ("length", 2)
    long_prompt = "scene " * 120
    cut = tiny_model.generate(long_prompt, GenerationOptions(max_new_tokens=200))
    assert cut.usage.total_tokens <= tiny_model.context_window
    assert any("max_new_tokens cut" in note for note in cut.notes)


def test_a_seed_repeats_a_sample_and_leaves_the_global_state_alone(tiny_model):
    sampled = GenerationOptions(max_new_tokens=12, temperature=1.5, seed=7)
    before = torch.random.get_rng_state()
    first, second = tiny_model.generate("a", sampled).text, tiny_model.generate("a", sampled).text
    assert first == second
    assert torch.equal(before, torch.random.get_rng_state())
    assert tiny_model.generate("a", replace(sampled, seed=8)).text != first


def test_closing_the_stream_ends_the_generation(tiny_model):
    threads = threading.active_count()
    stream = tiny_model.stream("a scene", GenerationOptions(max_new_tokens=200))
    next(stream)
    stream.close()
    assert threading.active_count() == threads
    assert tiny_model.generate("a scene", SHORT).text  # the lock is free again


def test_concurrent_generations_do_not_mix(tiny_model):
    prompts = ["a scene", "its own", "Анна", "passage"]
    alone = [tiny_model.generate(prompt, SHORT).text for prompt in prompts]
    together: dict[int, str] = {}

    def generate(index):
        together[index] = tiny_model.generate(prompts[index], SHORT).text

    workers = [threading.Thread(target=generate, args=(index,)) for index in range(len(prompts))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [together[index] for index in range(len(prompts))] == alone


def test_a_prompt_longer_than_the_window_is_refused_at_the_call(tiny_model):
    with pytest.raises(InputError, match=r"prompt has \d+ tokens and the window .* is 256"):
        tiny_model.stream("x y z " * 300)


@pytest.mark.parametrize("prompt", ["", []])
def test_an_empty_prompt_is_refused(tiny_model, prompt):
    with pytest.raises(InputError, match="empty"):
        tiny_model.generate(prompt)


def test_a_role_the_template_refuses_is_named(tiny_model):
    with pytest.raises(ModelError, match="unknown role wizard"):
        tiny_model.generate([Message("wizard", "hello")])


def test_without_a_template_roles_are_written_out_and_noted(tmp_path):
    from hyperscene_plugin import LocalModel

    local = LocalModel.load(str(save_tiny_model(tmp_path / "plain", chat_template=None)), device_map="cpu")
    assert PLAIN_FORMAT_NOTE in local.generate(QUESTION, SHORT).notes


def test_a_template_without_system_gets_it_folded_and_noted(tmp_path):
    from hyperscene_plugin import LocalModel

    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ m.role }}:{{ m.content }}\n{% endfor %}"
    )
    local = LocalModel.load(str(save_tiny_model(tmp_path / "nosys", chat_template=template)), device_map="cpu")
    assert SYSTEM_FOLDED_NOTE in local.generate(QUESTION, SHORT).notes


@pytest.mark.parametrize(
    "wrong",
    [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_k": 0}, {"stop": ("",)}, {"stop": "word"}],
)
def test_wrong_options_are_refused(wrong):
    with pytest.raises(InputError):
        GenerationOptions(**wrong)
