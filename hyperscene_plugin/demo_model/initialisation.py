"""Structured initialisation: a fresh `LlamaForCausalLM` in, the same model with a reading circuit laid out in it.

Random initialisation finds "which value belongs to which name" only after hours on a CPU. Here the weights start
near a circuit that does it, and training makes it work for all wordings. What is laid out:

* every embedding has a constant component, so a head can have constant queries and keys; with rotary positions
  q.k is then a sum of cosines of the distance, which is fitted to look one or two tokens back (layer 0, heads 0, 1)
  or at a window that fades with distance (heads 2, 3; these favour name tokens and relation words);
* names carry a name code, words that go with one relation its relation code (from counts over the world's own
  sentences), values their relation's code in dimensions of their own;
* a position thus knows the last name and relation words before it; layers 1-3 match the question's name and
  relation with the name and kind at each value token in dimensions that rotary positions hardly turn, and copy
  that token's embedding, which raises its logit because embeddings are tied; other heads continue what they copy
  (match the last two tokens with the two before each position).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from .lexicon import MONTHS, NAMES, RELATIONS

# Residual dimensions (hidden size 256): constant, filler, two flags, then codes, identity, gathered codes, past tokens.
CONST, FILL, IS_NAME, IS_TYPE = 0, 1, 2, 3
NAME, TYPE, KIND = slice(4, 28), slice(28, 42), slice(42, 56)
WORD, LAST_NAME, LAST_TYPE, PAST = slice(56, 168), slice(168, 192), slice(192, 206), slice(206, 256)
EMBED_NORM = 2.0


def make_config(tokenizer: PreTrainedTokenizerFast, layers: int = 4, mlp: int = 256) -> LlamaConfig:
    """The shipped architecture: stock Llama, hidden size 256, 4 query and 2 key/value heads of 64, tied embeddings."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 1e8},
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


@torch.enable_grad()
def fit_distance_kernel(target: torch.Tensor, theta: float, head_dim: int, pairs: int, reach: int = 3000) -> torch.Tensor:
    """A constant query (head_dim,) that attends by distance only, given keys of 1 on the cosine half of `pairs`.

    `target` (n,): wanted attention over distances 0, 1, ...; fitted by cross-entropy with a small penalty on size,
    over `reach` positions. Scores are assumed to be scaled by head_dim ** -0.5.
    """
    freqs = theta ** (-torch.arange(0, head_dim, 2).double() / head_dim)[:pairs]
    distance = torch.arange(reach).double()[:, None] * freqs
    waves = torch.cat([distance.cos(), distance.sin()], 1)
    want = torch.zeros(reach).double()
    want[: len(target)] = target.double() / target.sum()
    weight = torch.zeros(2 * pairs).double().requires_grad_()
    optimizer = torch.optim.LBFGS([weight], max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = -(want * torch.log_softmax(waves @ weight, 0)).sum() + 1e-3 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)
    query = torch.zeros(head_dim)
    half = head_dim // 2
    found = weight.detach().float() * math.sqrt(head_dim)
    query[:pairs] = found[:pairs]
    query[half : half + pairs] = -found[pairs:]  # rotate_half puts a minus on the sine part
    return query


def type_codes(tokenizer: PreTrainedTokenizerFast) -> tuple[torch.Tensor, torch.Tensor]:
    """Relation codes of relation words and of values, each (vocab, 14): how surely a token goes with one relation."""
    words = torch.zeros(len(tokenizer), len(RELATIONS))
    values = torch.zeros(len(tokenizer), len(RELATIONS))

    def ids(text: str) -> set[int]:
        return set(tokenizer.encode(" " + text, add_special_tokens=False))

    for column, relation in enumerate(RELATIONS):
        for form in (*relation.vps, *relation.before, *relation.questions, *relation.chat):
            for token in ids(form.replace("{s}", "").replace("{v}", "").strip()):
                words[token, column] += 1
        numbers = {"year": "1 2 9 0", "date": " ".join(MONTHS), "number": "1234567890"}.get(relation.kind, "")
        for value in (*relation.values, numbers):
            for token in ids(value):
                values[token, column] = 1.0
    share = words / words.sum(1, keepdim=True).clamp(min=1)
    surely = ((share.amax(1, keepdim=True) - 0.3) / 0.7).clamp(min=0)
    values = values / values.norm(dim=1, keepdim=True).clamp(min=1)
    return share * surely * (values.sum(1, keepdim=True) == 0), values


@torch.enable_grad()
def spread_codes(count: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """Unit vectors (count, width) pushed apart by gradient steps, so that few pairs look alike."""
    codes = torch.randn(count, width, generator=generator).requires_grad_()
    optimizer = torch.optim.Adam([codes], lr=0.02)
    for _ in range(150):
        unit = torch.nn.functional.normalize(codes, dim=1)
        loss = torch.logsumexp(12 * (unit @ unit.T - 2 * torch.eye(count)), 1).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return torch.nn.functional.normalize(codes.detach(), dim=1)


@torch.no_grad()
def initialise(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, sample_ids: torch.Tensor, seed: int = 0,
    name_score: float = 10.0, kind_score: float = 10.0, copy: float = 3.0,
) -> None:
    """Lay the circuit out in `model` (changed in place). `sample_ids` (B, T) calibrates the scale of each layer.

    Raises ValueError for a model whose sizes do not have room for it.
    """
    config = model.config
    if (config.hidden_size, config.head_dim, config.num_attention_heads, config.num_hidden_layers) != (256, 64, 4, 4):
        raise ValueError("the circuit is laid out for hidden size 256 and 4 layers of 4 heads of 64")
    gen = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            weight.normal_(0, 0.002 if "self_attn" in name else 0.02, generator=gen)
        else:
            weight.fill_(1.0)
    _embeddings(model, tokenizer, gen)
    model.model.norm.weight[:4] = 0.0
    past, turn = _gather_layer(model, gen)
    word = _orthogonal(112, 112, gen)
    halves = [word[:64], word[64:]]
    plan = {1: ("continue", "match", 0, 0), 2: ("match", "match", 1, 2), 3: ("continue", "match", 1, 0)}
    for layer, (first, second, half_a, half_b) in plan.items():
        states = model(sample_ids, output_hidden_states=True).hidden_states[layer]
        scale = math.sqrt(256) / states.norm(dim=-1).mean().item()
        for group, (kind, half) in enumerate(((first, half_a), (second, half_b))):
            if kind == "match":
                _match_heads(model, layer, group, scale, name_score, kind_score, gen)
            else:
                _continue_heads(model, layer, group, scale, past, turn, gen)
            _copy(model, layer, group, scale, halves[half] if half < 2 else None, copy)


def _orthogonal(rows: int, columns: int, gen: torch.Generator) -> torch.Tensor:
    size = max(rows, columns)
    return torch.linalg.qr(torch.randn(size, size, generator=gen))[0][:rows, :columns]


def _embeddings(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, gen: torch.Generator) -> None:
    table = model.model.embed_tokens.weight
    table.zero_()
    size = len(tokenizer)
    word = torch.nn.functional.normalize(torch.randn(size, 112, generator=gen), dim=1) * 0.9
    texts = [tokenizer.decode([i]) for i in range(size)]
    first: dict[str, int] = {}
    for i, text in enumerate(texts):  # " Anna", "Anna" and "anna" start out nearly alike
        key = text.strip().casefold()
        if len(key) > 1 and key in first:
            word[i] = 0.9 * word[first[key]] + 0.4 * word[i]
        else:
            first[key] = i
    types, kinds = type_codes(tokenizer)
    typed = types.norm(dim=1)
    word[typed > 0] *= 0.6
    special = torch.tensor(tokenizer.all_special_ids)
    names = torch.zeros(size, dtype=torch.bool)
    codes = spread_codes(len(NAMES), 24, gen)
    for name, code in zip(NAMES, codes, strict=True):
        for form in (" " + name, name):
            found = tokenizer.encode(form, add_special_tokens=False)
            if len(found) == 1:
                table[found[0], NAME] = code
                names[found[0]] = True
    word[special] = 0.0
    plain = ~names & (typed == 0) & (kinds.norm(dim=1) == 0)
    word[plain] *= 0.5
    table[:, WORD] = word
    table[:, TYPE] = types
    table[:, KIND] = kinds * 0.9
    table[:, CONST] = 1.0
    table[:, IS_NAME] = names.float()
    table[:, IS_TYPE] = typed.clamp(max=1.0)
    rest = (EMBED_NORM**2 - table.square().sum(1)).clamp(min=0.01)
    table[:, FILL] = rest.sqrt()
    table += torch.randn(table.shape, generator=gen) * 0.003


def _gather_layer(model: LlamaForCausalLM, gen: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Layer 0: two heads one and two tokens back, one for the last name, one for relation words just before."""
    attn = model.model.layers[0].self_attn
    theta = model.config.rope_parameters["rope_theta"]
    query, key, value, out = (p.weight for p in (attn.q_proj, attn.k_proj, attn.v_proj, attn.o_proj))
    scale = math.sqrt(256) / EMBED_NORM
    distance = torch.arange(40.0)
    targets: Sequence[torch.Tensor] = (
        torch.tensor([0.0, 1.0]),
        torch.tensor([0.0, 0.0, 1.0]),
        torch.exp(-distance / 8),
        torch.exp(-distance[:14] / 10),
    )
    query.zero_()
    key.zero_()
    for head, target in enumerate(targets):
        query[head * 64 : head * 64 + 64, CONST] = fit_distance_kernel(target, theta, 64, 28) / scale / 3
    for group in range(2):
        key[group * 64 : group * 64 + 28, CONST] = 3 / scale
    for head, flag, low in ((2, IS_NAME, 30), (3, IS_TYPE, 31)):  # bonus of 8 for names, for relation words
        key[64 + low, flag] = 8 / scale
        query[head * 64 + low, CONST] = 8 / scale
    past, turn = _orthogonal(50, 112, gen), _orthogonal(50, 50, gen)
    value[:50, WORD] += past / scale
    out[PAST, :50] += 1.5 * torch.eye(50)
    out[PAST, 64:114] += 1.0 * turn
    value[64:88, NAME] += torch.eye(24) / scale
    value[88:102, TYPE] += torch.eye(14) / scale
    out[LAST_NAME, 128:152] += 1.5 * torch.eye(24)
    out[LAST_TYPE, 192 + 24 : 192 + 38] += 1.5 * torch.eye(14)
    return past, turn


_SLOW = [*range(13, 32), *range(45, 64)]  # 38 dimensions of a head that turn less than a radian in 1,700 tokens


def _match_heads(
    model: LlamaForCausalLM, layer: int, group: int, scale: float, name: float, kind: float, gen: torch.Generator
) -> None:
    attn = model.model.layers[layer].self_attn
    query, key = attn.q_proj.weight, attn.k_proj.weight
    order = torch.tensor(_SLOW)[torch.randperm(38, generator=gen)]
    by_name = math.sqrt(name * 8) / (1.5 * scale)
    by_kind = math.sqrt(kind * 8) / scale
    key[group * 64 + order[:24], LAST_NAME] += by_name * torch.eye(24)
    key[group * 64 + order[24:], KIND] += by_kind * torch.eye(14)
    for head in (2 * group, 2 * group + 1):
        query[head * 64 + order[:24], LAST_NAME] += by_name * torch.eye(24)
        query[head * 64 + order[24:], LAST_TYPE] += by_kind * torch.eye(14)


def _continue_heads(
    model: LlamaForCausalLM, layer: int, group: int, scale: float, past: torch.Tensor, turn: torch.Tensor,
    gen: torch.Generator,
) -> None:
    attn = model.model.layers[layer].self_attn
    query, key = attn.q_proj.weight, attn.k_proj.weight
    mix = _orthogonal(38, 50, gen)
    size = math.sqrt(12 * 8) / (1.2 * scale)
    slow = torch.tensor(_SLOW)
    key[(group * 64 + slow)[:, None], torch.arange(206, 256)] += size * mix
    for head in (2 * group, 2 * group + 1):
        rows = (head * 64 + slow)[:, None]
        query[rows, torch.arange(56, 168)] += size * mix @ past * 1.5
        query[rows, torch.arange(206, 256)] += size * mix @ turn


def _copy(model: LlamaForCausalLM, layer: int, group: int, scale: float, half: torch.Tensor | None, copy: float) -> None:
    attn = model.model.layers[layer].self_attn
    value, out = attn.v_proj.weight, attn.o_proj.weight
    if half is None:  # names and kinds instead of word identity
        value[group * 64 : group * 64 + 24, NAME] += torch.eye(24) / scale
        value[group * 64 + 24 : group * 64 + 38, KIND] += torch.eye(14) / scale
    else:
        value[group * 64 : group * 64 + len(half), WORD] += half / scale
    for head in (2 * group, 2 * group + 1):
        if half is None:
            out[NAME, head * 64 : head * 64 + 24] += copy / 2 * torch.eye(24)
            out[KIND, head * 64 + 24 : head * 64 + 38] += copy / 2 * torch.eye(14)
        else:
            out[WORD, head * 64 : head * 64 + len(half)] += copy / 2 * half.T
