"""A compact cache on disk: what is saved comes back bit for bit, and whatever is wrong with a folder has a name."""

from __future__ import annotations

import json
import math
import os
import shutil
import stat
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperscene_plugin.errors import (
    FingerprintMismatchError,
    HypercodeCorruptError,
    HypercodeError,
    HypercodeNotFoundError,
    HypercodeVersionError,
    InputError,
    ModelError,
)
from hyperscene_plugin.kv.layout import CompactCache, LayerSlots, SceneSpan
from hyperscene_plugin.kv.manifest import manifest_bytes
from hyperscene_plugin.kv.quantise import dequantise_layer, quantise_layer
from hyperscene_plugin.kv.storage import (
    FileVerbatim,
    MemoryVerbatim,
    inspect_compact,
    load_compact,
    pack,
    save_compact,
    unpack,
)

FINGERPRINT = {"model_id": "tiny", "rope": "default:10000", "tokenizer_sha256": "ab"}
ARRAYS = ("keys", "values", "bias", "offsets", "source_index")
NAMES = ["hypercode.safetensors", "manifest.json", "source.md", "verbatim.safetensors"]


def layer_of(counts: list[int], dtype: torch.dtype = torch.float32, dim: int = 4, tokens: int = 20) -> LayerSlots:
    slots = sum(counts)
    offsets = torch.tensor([0, *counts]).cumsum(0).to(torch.int32)
    index = torch.cat([torch.randint(0, tokens, (count,)).sort().values for count in counts])
    keys, values = torch.randn(slots, dim).to(dtype), torch.randn(slots, dim).to(dtype)
    return LayerSlots(keys, values, torch.randn(slots), offsets, index.to(torch.int32))


def cache_of(*layers: LayerSlots, verbatim: bool = False, tokens: int = 20, **changes: Any) -> CompactCache:
    texts = ["Жил-был 🐈.\r\n", "", "Second scene.\n"]
    scenes = (SceneSpan(0, 7, texts[0], "a"), SceneSpan(7, 7, texts[1], "b", "too short"))
    cache = CompactCache(
        layers=layers,
        scenes=(*scenes, SceneSpan(7, tokens, texts[2], "c")),
        token_ids=torch.arange(tokens),
        compaction_ratio=3.5,
        full_nbytes=12345,
        quality="balanced",
        fingerprint=FINGERPRINT,
        source_id="doc-1",
        block_starts=(0, 7),
        zoom_bytes=77,
        zoom_units=((0, 4), (4, 7), (9, tokens)),
        fidelity={"output_error": 0.25, "odd": math.inf},
        routing={"0.1": 0.5},
        notes=("one",),
    )
    if verbatim:
        pairs = [
            torch.randn(2, layer.num_heads, tokens, 4).to(layer.keys.dtype) if layer.window is None else None
            for layer in layers
        ]
        cache = replace(
            cache, verbatim=MemoryVerbatim([None if pair is None else (pair[0], pair[1]) for pair in pairs])
        )
    return replace(cache, **changes)


def assert_same(loaded: CompactCache, saved: CompactCache) -> None:
    assert torch.equal(loaded.token_ids, saved.token_ids)
    for mine, other in zip(loaded.layers, saved.layers, strict=True):
        assert mine.window == other.window
        for name in ARRAYS:
            a, b = getattr(mine, name), getattr(other, name)
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            assert torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8)), name
    nothing: dict[str, Any] = {"layers": (), "token_ids": torch.empty(0), "verbatim": None}
    assert replace(loaded, **nothing, notes=()).scenes == saved.scenes
    for name in ("compaction_ratio", "full_nbytes", "quality", "fingerprint", "source_id", "block_starts"):
        assert getattr(loaded, name) == getattr(saved, name), name
    for name in ("zoom_bytes", "zoom_units", "fidelity", "routing"):
        assert getattr(loaded, name) == getattr(saved, name), name


@pytest.fixture
def cache() -> CompactCache:
    torch.manual_seed(0)
    return cache_of(layer_of([3, 0, 5]), layer_of([0, 0, 0]), replace(layer_of([0, 0, 0]), window=16), verbatim=True)


@pytest.fixture
def saved(cache: CompactCache, tmp_path: Path) -> Path:
    return save_compact(cache, tmp_path / "kv")


ragged = st.lists(st.lists(st.integers(0, 6), min_size=2, max_size=2), min_size=1, max_size=3)
dtypes = st.sampled_from([torch.float16, torch.bfloat16, torch.float32])


@settings(max_examples=40, deadline=None)
@given(ragged, dtypes, st.booleans(), st.integers(0, 2**31))
def test_round_trip_bit_for_bit(counts: list[list[int]], dtype: torch.dtype, verbatim: bool, seed: int) -> None:
    torch.manual_seed(seed)
    cache = cache_of(*(layer_of(heads, dtype) for heads in counts), verbatim=verbatim)
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_compact(save_compact(cache, Path(folder, "kv")), expected=FINGERPRINT, verify="full")
        assert_same(loaded, cache)
        assert loaded.notes == cache.notes
        assert (loaded.nbytes, loaded.num_slots) == (cache.nbytes, cache.num_slots)
        assert (loaded.verbatim is not None) == verbatim
        packed = pack(Path(folder, "kv"), Path(folder, "kv.zip"))
        assert_same(load_compact(unpack(packed, Path(folder, "again"))), cache)
        assert sorted(path.name for path in Path(folder).iterdir()) == ["again", "kv", "kv.zip"]


def test_numbers_that_are_not_finite_stay_what_they_are(tmp_path: Path) -> None:
    layer = layer_of([2, 1])
    layer.keys[0, 0], layer.bias[1], layer.values[2, 3] = math.nan, -math.inf, -0.0
    cache = cache_of(layer, fidelity={"x": math.nan, "y": -math.inf}, compaction_ratio=math.inf)
    loaded = load_compact(save_compact(cache, tmp_path / "kv"))
    assert torch.equal(loaded.layers[0].keys.view(torch.int32), layer.keys.view(torch.int32))
    assert math.isnan(loaded.fidelity["x"])
    assert (loaded.fidelity["y"], loaded.compaction_ratio) == (-math.inf, math.inf)


def test_arrays_that_share_memory_are_stored_apart(tmp_path: Path) -> None:
    rows = torch.randn(12, 8)
    head, index = torch.tensor([0, 4, 6], dtype=torch.int32), torch.arange(6, dtype=torch.int32)
    layers = [LayerSlots(part, part, torch.zeros(6), head, index) for part in (rows[:6, :4], rows[3:9, :4])]
    cache = cache_of(*layers)
    assert_same(load_compact(save_compact(cache, tmp_path / "kv")), cache)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=3),
    dtypes,
    st.floats(-44, 38).map(lambda power: 10.0**power),
    st.integers(0, 2**31),
)
def test_int8_error_is_at_most_half_a_step(counts: list[int], dtype: torch.dtype, size: float, seed: int) -> None:
    torch.manual_seed(seed)
    plain = layer_of(counts, torch.float32)
    limit = torch.finfo(dtype).max
    keys, values = ((part * size).clamp(-limit, limit).to(dtype) for part in (plain.keys, plain.values))
    layer = replace(plain, keys=keys, values=values)
    back = dequantise_layer(quantise_layer(layer))
    for exact, restored in ((layer.keys, back.keys), (layer.values, back.values)):
        assert restored.dtype == dtype
        assert restored.isfinite().all()
        largest = exact.double().abs().amax(1, keepdim=True)
        step = (largest / 127).clamp(min=torch.finfo(torch.float32).tiny)
        rounding = torch.finfo(dtype).eps * largest + torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
        assert ((exact.double() - restored.double()).abs() <= step / 2 * (1 + 1e-5) + rounding).all()
    assert torch.equal(back.bias, layer.bias)


def test_int8_extremes() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        rows = torch.tensor([[torch.finfo(dtype).max, 0.0], [0.0, 0.0], [-1.0, 1.0]], dtype=dtype)
        index, offsets = torch.arange(3, dtype=torch.int32), torch.tensor([0, 3], dtype=torch.int32)
        back = dequantise_layer(quantise_layer(LayerSlots(rows, rows, torch.zeros(3), offsets, index)))
        assert torch.allclose(back.keys.double(), rows.double(), rtol=1e-2)
        assert torch.equal(back.keys[1:], rows[1:])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_int8_on_disk(tmp_path: Path, dtype: torch.dtype) -> None:
    cache = cache_of(layer_of([60, 0, 200], dtype, dim=64), layer_of([10, 1, 0], dtype, dim=64))
    same, small = save_compact(cache, tmp_path / "same"), save_compact(cache, tmp_path / "small", storage="int8")
    before, after = inspect_compact(same), inspect_compact(small)
    assert (before["storage"], after["storage"]) == ("same", "int8")
    assert after["bytes_on_disk"] < 0.65 * before["bytes_on_disk"]
    assert after["bytes_in_memory"] == before["bytes_in_memory"] == cache.nbytes
    assert before["full_cache_bytes"] == cache.full_nbytes
    assert after["bytes_on_disk"] == sum(path.stat().st_size for path in small.iterdir() if path.suffix != ".json")
    loaded = load_compact(small)
    assert_same(loaded, replace(cache, layers=tuple(dequantise_layer(quantise_layer(x)) for x in cache.layers)))
    assert not torch.equal(loaded.layers[0].keys, cache.layers[0].keys)
    assert any("int8" in note for note in loaded.notes)
    again = load_compact(save_compact(loaded, tmp_path / "again", storage="int8"))
    assert again.notes == loaded.notes


def test_verbatim_slices_equal_the_full_tensors(saved: Path, cache: CompactCache) -> None:
    full, stored = cache.verbatim, load_compact(saved).verbatim
    assert isinstance(full, MemoryVerbatim)
    assert isinstance(stored, FileVerbatim)
    assert (stored.nbytes, stored.num_tokens, stored.num_layers) == (full.nbytes, 20, 3)
    assert str(saved) in repr(stored)
    assert "3 layers" in repr(full)
    for layer in range(2):
        for start, end in ((0, 20), (3, 9), (19, 20), (5, 5)):
            for a, b in zip(stored.read(layer, start, end), full.read(layer, start, end), strict=True):
                assert a.shape == b.shape == (3, end - start, 4)
                assert torch.equal(a, b)
        for head in range(3):
            assert torch.equal(stored.read_keys(layer, head), full.read_keys(layer, head))
    for verbatim in (full, stored):
        assert [verbatim.has_layer(layer) for layer in range(-1, 4)] == [False, True, True, False, False]
        for wrong in ((3, 0, 1), (-1, 0, 1), (0, 3, 21), (0, -1, 2), (0, 5, 4)):
            with pytest.raises(InputError):
                verbatim.read(*wrong)
        with pytest.raises(InputError, match="head 3"):
            verbatim.read_keys(0, 3)
        for read in (lambda v=verbatim: v.read(2, 0, 1), lambda v=verbatim: v.read_keys(2, 0)):
            with pytest.raises(InputError, match="layer 2 has a sliding window"):
                read()


def test_a_windowed_layer_takes_no_verbatim_bytes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first = replace(layer_of([2]), window=8)
    cache = cache_of(first, layer_of([2]), replace(layer_of([2]), window=8), verbatim=True)
    assert isinstance(cache.verbatim, MemoryVerbatim)
    assert cache.verbatim.nbytes == 2 * 20 * 4 * 4
    stored = load_compact(save_compact(cache, tmp_path / "kv"), verify="full").verbatim
    assert isinstance(stored, FileVerbatim)
    assert (stored.nbytes, stored.num_layers) == (2 * 20 * 4 * 4, 3)
    assert torch.equal(stored.read(1, 2, 9)[1], cache.verbatim.read(1, 2, 9)[1])
    alone = FileVerbatim(tmp_path / "kv" / "verbatim.safetensors")
    assert (alone.num_layers, alone.has_layer(0), alone.has_layer(1)) == (2, False, True)
    with pytest.raises(HypercodeCorruptError, match="of layers 0 to 0"):
        FileVerbatim(tmp_path / "kv" / "verbatim.safetensors", 1)
    only_windows = replace(cache, layers=(first,), verbatim=MemoryVerbatim([None]))
    assert load_compact(save_compact(only_windows, tmp_path / "none")).verbatim is None


def resident_kib(file: Path) -> int:
    blocks = Path("/proc/self/smaps").read_text().split("VmFlags:")
    sizes = [line for block in blocks if str(file) in block for line in block.splitlines() if line.startswith("Rss:")]
    assert sizes, f"{file} is not mapped"
    return sum(int(line.split()[1]) for line in sizes)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux")
def test_only_what_is_used_comes_into_memory(tmp_path: Path) -> None:
    tokens = 4096
    full = MemoryVerbatim([(torch.randn(2, tokens, 512), torch.randn(2, tokens, 512))])
    small = cache_of(replace(layer_of([2, 2]), keys=torch.randn(4, 512), values=torch.randn(4, 512)), tokens=tokens)
    folder = save_compact(replace(small, verbatim=full), tmp_path / "kv")
    stored = load_compact(folder).verbatim
    assert stored is not None
    assert resident_kib(folder / "verbatim.safetensors") < 512
    part = stored.read(0, 100, 110)[0].sum()
    assert torch.equal(part, full.read(0, 100, 110)[0].sum())
    assert resident_kib(folder / "verbatim.safetensors") < 4096 < full.nbytes // 1024 // 4


def test_deleting_or_replacing_the_folder_leaves_a_loaded_cache_alone(saved: Path, cache: CompactCache) -> None:
    loaded = load_compact(saved)
    save_compact(loaded, saved, overwrite=True)  # its own source
    assert_same(load_compact(saved, verify="full"), cache)
    loaded.layers[0].keys[0] += 1  # a private mapping: neither the file nor another load sees it
    assert_same(load_compact(saved, verify="full"), cache)
    shutil.rmtree(saved)
    assert torch.equal(loaded.layers[0].values, cache.layers[0].values)
    assert loaded.verbatim is not None
    assert cache.verbatim is not None
    assert torch.equal(loaded.verbatim.read(1, 0, 20)[1], cache.verbatim.read(1, 0, 20)[1])


def test_inspect_needs_no_tensors(saved: Path, cache: CompactCache) -> None:
    assert sorted(path.name for path in saved.iterdir()) == NAMES
    for name in set(NAMES) - {"manifest.json"}:
        (saved / name).unlink()
    manifest = inspect_compact(saved)
    assert manifest["num_slots"] == cache.num_slots == 8
    assert manifest["windows"] == [None, None, 16]
    assert manifest["zoom_units"] == [[0, 4], [4, 7], [9, 20]]
    assert manifest["scenes"][2] == {
        "start": 7,
        "end": 20,
        "key": "c",
        "text_only": "",
        "text_start": 12,
        "text_end": 26,
    }
    with pytest.raises(HypercodeCorruptError, match="is missing"):
        load_compact(saved)


# what is wrong with a folder


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest as another release would have written it: with its own hash right."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    change(manifest)
    version = manifest.pop("schema_version", None)
    data = json.loads(manifest_bytes(manifest))
    data["schema_version"] = version
    (folder / "manifest.json").write_text(json.dumps(data))


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"manifest.json"}))
@pytest.mark.parametrize("verify", ["fast", "full"])
def test_a_file_cut_off_missing_or_flipped(saved: Path, name: str, verify: Any) -> None:
    whole = (saved / name).read_bytes()
    flip(saved / name, len(whole) - 1)
    with pytest.raises(HypercodeCorruptError, match=rf"{name} has SHA-256 .*stored was"):
        load_compact(saved, verify=verify)
    (saved / name).write_bytes(whole[:-1])
    with pytest.raises(HypercodeCorruptError, match=rf"{name} has {len(whole) - 1} bytes, stored were {len(whole)}"):
        load_compact(saved, verify=verify)
    (saved / name).unlink()
    with pytest.raises(HypercodeCorruptError, match=rf"{name} is missing"):
        load_compact(saved, verify=verify)
    (saved / name).write_bytes(whole)
    load_compact(saved, verify=verify)


def test_fast_does_not_hash_large_files_and_full_does(tmp_path: Path) -> None:
    folder = save_compact(cache_of(layer_of([3000], dim=64)), tmp_path / "kv")
    flip(folder / "hypercode.safetensors", -1)
    load_compact(folder, verify="fast")
    with pytest.raises(HypercodeCorruptError, match="SHA-256"):
        load_compact(folder, verify="full")


def test_a_damaged_manifest(saved: Path) -> None:
    file = saved / "manifest.json"
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b'"zoom_bytes": 77', b'"zoom_bytes": 78'))
    with pytest.raises(HypercodeCorruptError, match="changed after it was written"):
        load_compact(saved)
    for damaged in (b"", whole[:-9], b"[" * 100_000, b"[]", b"\xff\xfe\x00", b'{"format": "other"}'):
        file.write_bytes(damaged)
        with pytest.raises(HypercodeCorruptError, match=r"manifest\.json"):
            inspect_compact(saved)


def test_a_missing_key_is_named_with_its_file(saved: Path) -> None:
    whole = json.loads((saved / "manifest.json").read_bytes())
    assert len(whole) == 25
    for key in whole:
        (saved / "manifest.json").write_text(json.dumps({name: whole[name] for name in whole if name != key}))
        with pytest.raises(HypercodeCorruptError, match=f"'{key}'") as raised:
            load_compact(saved)
        assert str(saved / "manifest.json") in str(raised.value)


def test_unknown_keys_are_ignored(saved: Path, cache: CompactCache) -> None:
    rewrite(saved, lambda manifest: manifest.update(later={"x": [1]}))
    assert inspect_compact(saved)["later"] == {"x": [1]}
    assert_same(load_compact(saved), cache)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_slots": -1}, "'num_slots' must be a count"),
        ({"zoom_bytes": True}, "'zoom_bytes' must be a count"),
        ({"fidelity": {"x": "much"}}, "'fidelity' must be numbers"),
        ({"num_slots": 9}, "holds 8 for num_slots, the manifest 9"),
        ({"num_source_tokens": 21}, "holds 20 for num_source_tokens"),
        ({"dtype": "float16"}, "not torch.float16"),
        ({"dtype": "int4"}, "contradict"),
        ({"storage": "int4"}, "int4"),
        ({"storage": "int8"}, "key_scale"),
        ({"windows": [None, None, 16, 3]}, "layers.3.keys"),
        ({"windows": [None, None, None]}, "lacks the keys and values of the layers \\[2\\]"),
        ({"zoom_units": [[0, 4, 7]]}, "'zoom_units' must be pairs of counts"),
        ({"zoom_units": [[0, True]]}, "'zoom_units' must be pairs of counts"),
        ({"zoom_units": [[0, -1]]}, "'zoom_units' must be pairs of counts"),
        ({"zoom_units": [[4, 0]]}, "zoom units must ascend"),
        ({"zoom_units": [[0, 5], [4, 9]]}, "zoom units must ascend within the source's 20 tokens"),
        ({"zoom_units": [[0, 21]]}, "zoom units must ascend"),
        ({"scenes": [{"start": 0}]}, "'scenes' must be"),
        ({"source_sha256": "0" * 64}, "the source text has SHA-256"),
        ({"files": {}}, "'source.md' is not listed"),
    ],
)
def test_a_manifest_that_contradicts_the_files(saved: Path, change: dict[str, Any], words: str) -> None:
    rewrite(saved, lambda manifest: manifest.update(change))
    with pytest.raises(HypercodeCorruptError, match=words):
        load_compact(saved)


@pytest.mark.parametrize("name", ["../source.md", "/etc/passwd", "a/b", "..", ".hidden", "", "manifest.json", "a\\b"])
def test_a_manifest_cannot_name_files_elsewhere(saved: Path, name: str) -> None:
    rewrite(saved, lambda manifest: manifest["files"].update({name: manifest["files"]["source.md"]}))
    with pytest.raises(HypercodeCorruptError, match="not a plain file name"):
        load_compact(saved)


def test_scene_offsets_outside_the_text(saved: Path) -> None:
    rewrite(saved, lambda manifest: manifest["scenes"][2].update(text_end=27))
    with pytest.raises(HypercodeCorruptError, match="text offsets"):
        load_compact(saved)
    rewrite(saved, lambda manifest: manifest["scenes"][2].update(end=21))
    with pytest.raises(HypercodeCorruptError, match="20 tokens"):
        load_compact(saved)


@pytest.mark.parametrize("version", [2, 10**30])
def test_a_newer_version(saved: Path, version: int) -> None:
    rewrite(saved, lambda manifest: [manifest.popitem() for _ in range(9)] + [manifest.update(schema_version=version)])
    with pytest.raises(HypercodeVersionError, match=f"version {version}; this release reads up to 1"):
        load_compact(saved)


@pytest.mark.parametrize("version", [0, -1, "1", None, True, 1.0])
def test_no_version(saved: Path, version: object) -> None:
    rewrite(saved, lambda manifest: manifest.update(schema_version=version))
    with pytest.raises(HypercodeCorruptError, match="schema_version"):
        load_compact(saved)


def test_another_fingerprint_lists_every_difference(saved: Path) -> None:
    expected = {"model_id": "tiny", "rope": "yarn", "weights": "w"}
    with pytest.raises(FingerprintMismatchError) as raised:
        load_compact(saved, expected=expected)
    differences = (("rope", "default:10000", "yarn"), ("tokenizer_sha256", "ab", None), ("weights", None, "w"))
    assert raised.value.differences == differences
    assert isinstance(raised.value, ModelError)
    for part in (str(saved), "rope: stored 'default:10000', expected 'yarn'", "weights: stored nothing, expected 'w'"):
        assert part in str(raised.value)
    load_compact(saved, expected=FINGERPRINT)


def test_no_cache_there(tmp_path: Path, saved: Path) -> None:
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(HypercodeNotFoundError, match=r"manifest\.json is missing"):
            load_compact(folder)
    with pytest.raises(HypercodeError, match="Unpack it first"):
        load_compact(saved / "source.md")
    with pytest.raises(HypercodeError):
        load_compact("a\x00b")
    with pytest.raises(InputError, match="verify"):
        load_compact(saved, verify="slow")  # type: ignore[arg-type]


# what cannot be saved


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers": ()}, "without layers"),
        ({"layers": (layer_of([2], torch.float64),)}, "float64"),
        ({"layers": (layer_of([2]), layer_of([2], torch.float16))}, "must all be one of"),
        ({"layers": (replace(layer_of([2]), bias=torch.zeros(2).half()),)}, "layer 0: bias"),
        ({"layers": (layer_of([9], tokens=500),)}, "source indices"),
        ({"token_ids": torch.zeros(20)}, "token ids"),
        ({"fingerprint": {"x": 1}}, "'fingerprint' must be strings"),
        ({"scenes": (SceneSpan(5, 3, "", ""),)}, "scenes must ascend"),
        ({"scenes": (SceneSpan(0, 30, "", ""),)}, "scenes must ascend"),
        ({"zoom_units": ((3, 30),)}, "zoom units must ascend"),
        ({"zoom_units": ((3, 9), (8, 9))}, "zoom units must ascend"),
        ({"verbatim": MemoryVerbatim([None])}, "layer 0 has a sliding window"),
        ({"scenes": (SceneSpan(0, 3, "\ud800", ""),)}, "UTF-8"),
        ({"verbatim": MemoryVerbatim([(torch.zeros(2, 20, 4),) * 2])}, "verbatim keys and values must be floats"),
        ({"verbatim": MemoryVerbatim([])}, "no layer 0"),
    ],
)
def test_what_cannot_be_saved_writes_nothing(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(InputError, match=words):
        save_compact(replace(cache_of(layer_of([3, 1, 1])), **change), tmp_path / "kv")
    assert list(tmp_path.iterdir()) == []


def test_int8_refuses_what_is_not_finite(tmp_path: Path) -> None:
    layer = layer_of([2])
    layer.values[1, 1] = math.inf
    with pytest.raises(InputError, match="cannot be stored as int8"):
        save_compact(cache_of(layer), tmp_path / "kv", storage="int8")
    with pytest.raises(InputError, match="'same' or 'int8'"):
        save_compact(cache_of(layer), tmp_path / "kv", storage="int4")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_verbatim_layers_must_fit_each_other() -> None:
    assert (MemoryVerbatim([]).num_tokens, MemoryVerbatim([None]).nbytes) == (0, 0)
    for wrong in ([(torch.zeros(2, 3, 4), torch.zeros(2, 3, 5))], [(torch.zeros(3, 4), torch.zeros(3, 4))]):
        with pytest.raises(InputError, match="verbatim layer 0"):
            MemoryVerbatim(wrong)
    with pytest.raises(InputError, match="same tokens"):
        MemoryVerbatim([(torch.zeros(2, n, 4), torch.zeros(2, n, 4)) for n in (3, 4)])


# targets, interruptions


def test_an_existing_target(saved: Path, cache: CompactCache, tmp_path: Path) -> None:
    other = replace(cache, source_id="other", verbatim=None)
    with pytest.raises(HypercodeError, match=rf"{saved} exists"):
        save_compact(other, saved)
    assert load_compact(saved).source_id == "doc-1"
    save_compact(other, saved, overwrite=True)
    loaded = load_compact(saved)
    assert (loaded.source_id, loaded.verbatim) == ("other", None)
    (saved / "notes.txt").write_text("mine")
    with pytest.raises(HypercodeError, match=r"holds notes\.txt"):
        save_compact(other, saved, overwrite=True)
    with pytest.raises(HypercodeError, match="no folder"):
        save_compact(other, saved / "notes.txt", overwrite=True)
    (tmp_path / "empty").mkdir()
    save_compact(cache, tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "kv"]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("fail_at", [1, 2])
def test_an_interrupted_save_leaves_the_old_one_or_nothing(
    saved: Path,
    cache: CompactCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: BaseException,
    fail_at: int,
) -> None:
    calls, rename = [0], Path.rename

    def failing(self: Path, target: Path) -> Path:
        calls[0] += 1
        if calls[0] == fail_at:
            raise failure
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    wanted = KeyboardInterrupt if isinstance(failure, KeyboardInterrupt) else HypercodeError
    with pytest.raises(wanted):
        save_compact(replace(cache, source_id="new"), saved, overwrite=True)
    if fail_at == 1:
        calls[0] = 0
        with pytest.raises(wanted):
            save_compact(cache, tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["kv"]
    assert_same(load_compact(saved, verify="full"), cache)


@pytest.mark.parametrize("name", ["write_bytes", "open"])
def test_a_write_that_fails_leaves_nothing(
    saved: Path, cache: CompactCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    packed = pack(saved, tmp_path / "kv.zip")
    with monkeypatch.context() as patch:
        patch.setattr(Path, name, lambda *_args, **_kwargs: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(HypercodeError, match="No space left"):
            save_compact(cache, tmp_path / "other")
        with pytest.raises(HypercodeError, match="No space left"):
            unpack(packed, tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kv", "kv.zip"]


def test_what_a_crash_left_is_no_cache(saved: Path, cache: CompactCache, tmp_path: Path) -> None:
    def crash(name: str, age: float) -> Path:
        left = shutil.copytree(saved, tmp_path / name)
        os.utime(left, (time.time() - age,) * 2)
        return left

    fresh, stale = crash(".kv.tmp-0123456789abcdef", 10), crash(".kv.tmp-0123456789abcde0", 7200)
    other, former = crash(".other.tmp-0123456789abcdef", 7200), crash(".kv.old-0123456789abcdef", 10)
    with pytest.raises(HypercodeNotFoundError, match="interrupted save"):
        load_compact(fresh)
    with pytest.raises(InputError, match="cannot be a target"):
        save_compact(cache, fresh, overwrite=True)
    shutil.rmtree(saved)
    with pytest.raises(HypercodeNotFoundError, match=rf"{former}, rename it back"):
        load_compact(saved)
    assert_same(load_compact(former), cache)
    save_compact(cache, saved)
    assert (fresh.exists(), stale.exists(), other.exists(), former.exists()) == (True, False, True, False)


# one file


def zip_of(file: Path, entries: list[tuple[zipfile.ZipInfo | str, bytes]], compression: int = 0) -> Path:
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return file


def test_the_same_folder_packs_to_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    one, two = pack(saved, tmp_path / "1.zip"), pack(saved, tmp_path / "2.zip")
    assert one.read_bytes() == two.read_bytes()
    with pytest.raises(HypercodeError, match="exists"):
        pack(saved, one)
    pack(saved, one, overwrite=True)
    with pytest.raises(HypercodeError, match="exists"):
        unpack(one, saved)
    unpack(one, saved, overwrite=True)
    with zipfile.ZipFile(one) as archive:
        assert sorted(archive.namelist()) == NAMES
        assert all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
    with pytest.raises(HypercodeError, match="max_bytes"):
        unpack(one, tmp_path / "x", max_bytes=100)


def test_pack_checks_what_it_packs(saved: Path, tmp_path: Path) -> None:
    text = saved / "source.md"
    text.rename(tmp_path / "elsewhere.md")
    text.symlink_to(tmp_path / "elsewhere.md")
    load_compact(saved)
    with pytest.raises(HypercodeCorruptError, match="is a link"):
        pack(saved, tmp_path / "kv.zip")
    text.unlink()
    with pytest.raises(HypercodeCorruptError, match="is missing"):
        pack(saved, tmp_path / "kv.zip")
    with pytest.raises(HypercodeNotFoundError):
        pack(tmp_path / "none", tmp_path / "kv.zip")
    assert not (tmp_path / "kv.zip").exists()


def hostile(folder: Path) -> dict[str, tuple[list[tuple[zipfile.ZipInfo | str, bytes]], int]]:
    good: list[tuple[zipfile.ZipInfo | str, bytes]] = [(path.name, path.read_bytes()) for path in folder.iterdir()]
    link, device = zipfile.ZipInfo("link"), zipfile.ZipInfo("device")
    link.external_attr, device.external_attr = (stat.S_IFLNK | 0o777) << 16, (stat.S_IFBLK | 0o777) << 16
    wrong = [(name, data[:-1] + b"?" if name == "source.md" else data) for name, data in good]
    return {
        "parent": ([*good, ("../evil", b"x")], 0),
        "absolute": ([*good, ("/tmp/evil", b"x")], 0),
        "backslash": ([*good, ("..\\evil", b"x")], 0),
        "folder": ([*good, ("sub/", b"")], 0),
        "nested": ([*good, ("sub/evil", b"x")], 0),
        "link": ([*good, (link, b"/etc/passwd")], 0),
        "device": ([*good, (device, b"")], 0),
        "compressed": (good, zipfile.ZIP_DEFLATED),
        "extra": ([*good, ("evil", b"x")], 0),
        "lacking": (good[1:], 0),
        "changed": (wrong, 0),
        "empty": ([], 0),
    }


@pytest.mark.parametrize(
    "case",
    [
        "parent",
        "absolute",
        "backslash",
        "folder",
        "nested",
        "link",
        "device",
        "compressed",
        "extra",
        "lacking",
        "changed",
        "empty",
    ],
)
def test_hostile_files_unpack_nothing(saved: Path, tmp_path: Path, case: str) -> None:
    entries, compression = hostile(saved)[case]
    file = zip_of(tmp_path / "kv.zip", entries, compression)
    with pytest.raises(HypercodeCorruptError):
        unpack(file, tmp_path / "out" / "kv")
    assert [path for path in tmp_path.rglob("*") if "evil" in path.name or path.name == "kv"] == [saved]
    assert not any(path.is_file() for path in (tmp_path / "out").rglob("*"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_and_too_many(saved: Path, tmp_path: Path) -> None:
    good, _ = hostile(saved)["lacking"]
    with pytest.raises(HypercodeCorruptError, match="occurs once"):
        unpack(zip_of(tmp_path / "kv.zip", [*good, good[0]]), tmp_path / "out")
    with pytest.raises(HypercodeError, match="holds 65 files"):
        unpack(zip_of(tmp_path / "kv.zip", [(f"f{n}", b"") for n in range(65)]), tmp_path / "out")


def test_no_zip_at_all(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(HypercodeNotFoundError):
        unpack(tmp_path / "none.zip", tmp_path / "out")
    with pytest.raises(HypercodeCorruptError, match="no packed compact cache"):
        unpack(saved / "source.md", tmp_path / "out")
    with pytest.raises(HypercodeError):
        unpack(saved, tmp_path / "out")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_packed_file_is_an_error_or_whole(data: st.DataObject) -> None:
    """Flip bits and cut bytes anywhere: never another exception, never a cache that differs."""
    torch.manual_seed(0)
    cache = cache_of(layer_of([2, 1]))
    with tempfile.TemporaryDirectory() as folder:
        packed = pack(save_compact(cache, Path(folder, "kv")), Path(folder, "kv.zip"))
        content = bytearray(packed.read_bytes())
        for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
            content[at] ^= data.draw(st.integers(1, 255))
        packed.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
        try:
            loaded = load_compact(unpack(packed, Path(folder, "out")), verify="full")
        except HypercodeError:
            assert not Path(folder, "out").exists()
        else:
            assert_same(loaded, cache)
