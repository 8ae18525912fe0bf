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
from dataclasses import dataclass

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hyperscene_plugin.demo_model.lexicon import MONTHS, NAMES, RELATIONS
from hyperscene_plugin.errors import InputError

# Residual dimensions (hidden size 264): constant, filler, four flags, then a token's own codes and identity, then
# what layer 0 gathers: last name, last relation words, last value with its kind, the two tokens before.
CONST, FILL, IS_NAME, IS_TYPE, IS_VALUE, IS_STOP = range(6)
NAME, TYPE, KIND, WORD = slice(6, 30), slice(30, 44), slice(44, 58), slice(58, 144)
LAST_NAME, LAST_TYPE, LAST_VALUE, LAST_KIND = slice(144, 168), slice(168, 182), slice(182, 212), slice(212, 226)
PAST = slice(226, 264)
HIDDEN, WORDS, PASTS, VALUES = 264, 86, 38, 30  # widths of WORD, PAST and LAST_VALUE
EMBED_NORM = 2.0
ROPE_THETA = 1e8  # half of a head's dimensions hardly turn within 4,096 positions


def make_config(tokenizer: PreTrainedTokenizerFast, layers: int = 4, mlp: int = 256) -> LlamaConfig:
    """The shipped architecture: stock Llama, hidden size 264, 6 query and 3 key/value heads of 64, tied embeddings."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=6,
        num_key_value_heads=3,
        head_dim=64,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


@torch.enable_grad()
def fit_distance_kernel(
    target: torch.Tensor, theta: float, head_dim: int, pairs: int, reach: int = 3000
) -> torch.Tensor:
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

    optimizer.step(closure)  # type: ignore[no-untyped-call]
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
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    sample_ids: torch.Tensor,
    seed: int = 0,
    score: float = 10.0,
    copy: float = 2.0,
) -> None:
    """Lay the circuit out in `model` (changed in place). `sample_ids` (B, T) calibrates the scale of each layer.

    Raises InputError for a model whose sizes do not have room for it.
    """
    config = model.config
    sizes = (config.hidden_size, config.head_dim, config.num_attention_heads, config.num_hidden_layers)
    if sizes != (HIDDEN, 64, 6, 4):
        raise InputError("the circuit is laid out for hidden size 264 and 4 layers of 6 heads of 64")
    gen = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            weight.normal_(0, 0.002 if "self_attn" in name else 0.02, generator=gen)
        else:
            weight.fill_(1.0)
    _embeddings(model, tokenizer, gen)
    model.model.norm.weight[:6] = 0.0
    maps = _gather_layer(model, gen)
    word = _orthogonal(WORDS, WORDS, gen)
    first, second = word[:64], word[WORDS - 64 :]
    for layer in (1, 2, 3):
        states = model(sample_ids, output_hidden_states=True).hidden_states[layer]
        scale = math.sqrt(HIDDEN) / states.norm(dim=-1).mean().item()
        heads = _Heads(model, layer, scale, gen)
        if layer == 1:
            heads.continue_copied(0, maps)
            heads.copy(0, WORD, WORD, first, copy)
            heads.match(1, LAST_KIND_AT_VALUE, score)
            heads.copy(1, WORD, WORD, first, copy)
            heads.match(2, LAST_KIND, score)
            heads.copy(2, LAST_VALUE, WORD, maps.value, copy)
        elif layer == 2:
            heads.match(0, LAST_KIND_AT_VALUE, score)
            heads.copy(0, WORD, WORD, second, copy)
            heads.match(1, LAST_KIND_AT_VALUE, score)
            heads.copy(1, NAME, NAME, torch.eye(24), copy)
            heads.match_value(2, score)
            heads.copy(2, LAST_NAME, NAME, torch.eye(24), copy)
        else:
            heads.continue_copied(0, maps)
            heads.copy(0, WORD, WORD, second, copy)
            heads.match(1, LAST_KIND_AT_VALUE, score)
            heads.copy(1, WORD, WORD, first, copy)
            heads.match(2, LAST_KIND, score)
            heads.copy(2, LAST_VALUE, WORD, maps.value, copy)


def _orthogonal(rows: int, columns: int, gen: torch.Generator) -> torch.Tensor:
    size = max(rows, columns)
    basis: torch.Tensor = torch.linalg.qr(torch.randn(size, size, generator=gen))[0]
    return basis[:rows, :columns]


def _embeddings(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, gen: torch.Generator) -> None:
    table = model.model.embed_tokens.weight
    table.zero_()
    size = len(tokenizer)
    word = torch.nn.functional.normalize(torch.randn(size, WORDS, generator=gen), dim=1) * 0.9
    texts = [str(tokenizer.decode([i])) for i in range(size)]
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
    table[:, IS_VALUE] = (kinds.norm(dim=1) > 0).float()
    table[tokenizer.encode(".", add_special_tokens=False)[0], IS_STOP] = 1.0
    rest = (EMBED_NORM**2 - table.square().sum(1)).clamp(min=0.01)
    table[:, FILL] = rest.sqrt()
    table += torch.randn(table.shape, generator=gen) * 0.003


@dataclass(frozen=True)
class _Maps:
    """Random projections that layer 0 writes with and later layers read with."""

    past: torch.Tensor  # (PASTS, WORDS): a token's identity as the token before
    turn: torch.Tensor  # (PASTS, PASTS): from one before to two before
    value: torch.Tensor  # (VALUES, WORDS): a value token's identity as the last value


def _gather_layer(model: LlamaForCausalLM, gen: torch.Generator) -> _Maps:
    """Layer 0: heads one and two tokens back, last name, relation words just before, last values (two widths)."""
    attn = model.model.layers[0].self_attn
    query, key, value, out = (p.weight for p in (attn.q_proj, attn.k_proj, attn.v_proj, attn.o_proj))
    scale = math.sqrt(HIDDEN) / EMBED_NORM
    distance = torch.arange(40.0)
    targets: Sequence[torch.Tensor] = (
        torch.tensor([0.0, 1.0]),
        torch.tensor([0.0, 0.0, 1.0]),
        torch.exp(-distance / 8),
        torch.exp(-distance[:14] / 10),
        torch.exp(-distance / 8),
        torch.exp(-distance / 4),
    )
    query.zero_()
    key.zero_()
    for head, target in enumerate(targets):
        query[head * 64 : head * 64 + 64, CONST] = fit_distance_kernel(target, ROPE_THETA, 64, 28) / scale / 3
    for group in range(3):
        key[group * 64 : group * 64 + 28, CONST] = 3 / scale
    for head, flag, low in ((2, IS_NAME, 30), (3, IS_TYPE, 31), (4, IS_VALUE, 30), (5, IS_VALUE, 30)):
        key[head // 2 * 64 + low, flag] = 8 / scale  # a bonus of 8 for names, relation words, values
        query[head * 64 + low, CONST] = 8 / scale
    maps = _Maps(_orthogonal(PASTS, WORDS, gen), _orthogonal(PASTS, PASTS, gen), _orthogonal(VALUES, WORDS, gen))
    value[:PASTS, WORD] += maps.past / scale
    value[64:88, NAME] += torch.eye(24) / scale
    value[88:102, TYPE] += torch.eye(14) / scale
    value[128 : 128 + VALUES, WORD] += maps.value / scale
    value[160:174, KIND] += torch.eye(14) / scale
    out[PAST, :PASTS] += 1.5 * torch.eye(PASTS)
    out[PAST, 64 : 64 + PASTS] += 1.0 * maps.turn
    out[LAST_NAME, 128:152] += 1.5 * torch.eye(24)
    out[LAST_TYPE, 216:230] += 1.5 * torch.eye(14)
    for head in (4, 5):
        out[LAST_VALUE, head * 64 : head * 64 + VALUES] += 1.0 * torch.eye(VALUES)
        out[LAST_KIND, head * 64 + 32 : head * 64 + 46] += 0.6 * torch.eye(14)
    return maps


_SLOW = [*range(13, 32), *range(45, 64)]  # 38 dimensions of a head that turn less than a radian in 1,700 tokens
_FLAG = 12  # a dimension beside them
LAST_KIND_AT_VALUE = KIND  # the key's own kind: only value tokens have one


class _Heads:
    """Lays out the heads of one layer above layer 0; `scale` turns a residual component into its normalised size."""

    def __init__(self, model: LlamaForCausalLM, layer: int, scale: float, gen: torch.Generator) -> None:
        attn = model.model.layers[layer].self_attn
        self.query, self.key, self.value, self.out = (
            p.weight for p in (attn.q_proj, attn.k_proj, attn.v_proj, attn.o_proj)
        )
        self.scale, self.gen = scale, gen

    def match(self, group: int, kind: slice, score: float) -> None:
        """Look where the last name is the question's and `kind` (own, or last value's at a full stop) is asked for."""
        order = torch.tensor(_SLOW)[torch.randperm(38, generator=self.gen)]
        by_name = math.sqrt(score * 8) / (1.5 * self.scale)
        by_kind = math.sqrt(score * 8) / self.scale
        self.key[group * 64 + order[:24], LAST_NAME] += by_name * torch.eye(24)
        self.key[group * 64 + order[24:], kind] += by_kind * torch.eye(14)
        for head in (2 * group, 2 * group + 1):
            self.query[head * 64 + order[:24], LAST_NAME] += by_name * torch.eye(24)
            self.query[head * 64 + order[24:], LAST_TYPE] += by_kind * torch.eye(14)
        if kind == LAST_KIND:
            self._at_stops(group)

    def match_value(self, group: int, score: float) -> None:
        """Look at full stops whose sentence's last value is the one in the question (for "Who lives in Oslo?")."""
        rows = torch.tensor(_SLOW)[torch.randperm(38, generator=self.gen)][:VALUES]
        size = math.sqrt(score * 8) / (1.1 * self.scale)
        self.key[group * 64 + rows, LAST_VALUE] += size * torch.eye(VALUES)
        for head in (2 * group, 2 * group + 1):
            self.query[head * 64 + rows, LAST_VALUE] += size * torch.eye(VALUES)
        self._at_stops(group)

    def continue_copied(self, group: int, maps: _Maps) -> None:
        """Look where the two tokens before are the current one and the one before it (copying goes on)."""
        mix = _orthogonal(38, 38, self.gen)[:, :PASTS]
        size = math.sqrt(12 * 8) / (1.2 * self.scale)
        slow = torch.tensor(_SLOW)
        self.key[(group * 64 + slow)[:, None], torch.arange(PAST.start, PAST.stop)] += size * mix
        for head in (2 * group, 2 * group + 1):
            rows = (head * 64 + slow)[:, None]
            self.query[rows, torch.arange(WORD.start, WORD.stop)] += size * mix @ maps.past * 1.5
            self.query[rows, torch.arange(PAST.start, PAST.stop)] += size * mix @ maps.turn

    def copy(self, group: int, source: slice, target: slice, through: torch.Tensor, size: float) -> None:
        """Write what is at `source` where the group's heads look to `target`, by ``through.T @ through`` or back."""
        width = len(through)
        values, outs = slice(group * 64, group * 64 + width), through.T
        wide = source.stop - source.start == through.shape[1]
        self.value[values, source] += (through if wide else torch.eye(width)) / self.scale
        for head in (2 * group, 2 * group + 1):
            self.out[target, head * 64 : head * 64 + width] += size / 2 * outs

    def _at_stops(self, group: int) -> None:
        self.key[group * 64 + _FLAG, IS_STOP] += 7 / self.scale
        for head in (2 * group, 2 * group + 1):
            self.query[head * 64 + _FLAG, CONST] += 7 / self.scale
