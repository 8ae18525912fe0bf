"""The full, un-rotated keys and values of a source: in memory, or read from a safetensors file range by range."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from hyperscene_plugin.errors import HypercodeCorruptError, InputError
from hyperscene_plugin.kv.arrays import array_name, open_arrays
from hyperscene_plugin.kv.layout import bytes_of

__all__ = ["FileVerbatim", "MemoryVerbatim"]


class MemoryVerbatim:
    """``VerbatimKV`` over tensors: per layer ``(keys, values)``, each (num_kv_heads, tokens, head_dim).

    What it returns are views: writing into them changes it.

    Raises:
        InputError: shapes differ within a layer, or layers hold different numbers of tokens.
    """

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]]) -> None:
        self._layers = tuple((keys, values) for keys, values in layers)
        tokens = {keys.shape[1] for keys, _ in self._layers if keys.dim() == 3}
        for number, (keys, values) in enumerate(self._layers):
            if keys.dim() != 3 or values.shape != keys.shape or len(tokens) != 1:
                raise InputError(
                    f"verbatim layer {number} needs keys and values of one shape (num_kv_heads, tokens, head_dim) and "
                    f"all layers the same tokens; got {tuple(keys.shape)}, {tuple(values.shape)}, tokens {tokens}"
                )
        self.num_tokens = tokens.pop() if tokens else 0

    def __repr__(self) -> str:
        return f"MemoryVerbatim({self.num_layers} layers, {self.num_tokens} tokens, {self.nbytes} bytes)"

    @property
    def num_layers(self) -> int:
        """Layers held."""
        return len(self._layers)

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(bytes_of(keys, values) for keys, values in self._layers)

    def read(self, layer: int, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Return keys and values of tokens ``start:end``, each (num_kv_heads, tokens, head_dim).

        Raises:
            InputError: no such layer, or the range lies outside the source.
        """
        _check_layer(layer, self.num_layers)
        _check_range(start, end, self.num_tokens)
        keys, values = self._layers[layer]
        return keys[:, start:end], values[:, start:end]

    def read_keys(self, layer: int, head: int) -> Tensor:
        """Return the keys of one head for all tokens, (tokens, head_dim).

        Raises:
            InputError: no such layer or head.
        """
        _check_layer(layer, self.num_layers)
        keys = self._layers[layer][0]
        _check_head(head, keys.shape[0])
        return keys[head]


class FileVerbatim:
    """``VerbatimKV`` over a safetensors file (``layers.N.keys`` and ``layers.N.values``), mapped, not read.

    Only the pages of the wanted tokens and head come into memory, when they are used. What it returns are views of a
    private mapping: valid as long as they live, also when the file is deleted or replaced by rename (on Windows a
    mapped file cannot be deleted). A file that another program shortens in place ends the process; this package
    never writes into a finished file.

    Raises:
        HypercodeNotFoundError: there is no such file.
        HypercodeCorruptError: it is no safetensors file, or its arrays are not those of a verbatim cache.
    """

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file)
        self._handle = open_arrays(self.file)
        names = set(self._handle.keys())
        self.num_layers = sum(name.endswith(".keys") for name in names)
        wanted = [array_name(layer, array) for layer in range(self.num_layers) for array in ("keys", "values")]
        if not wanted or names != set(wanted):
            raise HypercodeCorruptError(f"{self.file} does not hold keys and values of every layer; it holds {names}")
        self._slices = {name: self._handle.get_slice(name) for name in wanted}
        shapes = [tuple(self._slices[name].get_shape()) for name in wanted]
        tokens = {shape[1] for shape in shapes if len(shape) == 3}
        if len(tokens) != 1 or any(len(a) != 3 or a != b for a, b in zip(shapes[::2], shapes[1::2], strict=True)):
            raise HypercodeCorruptError(
                f"{self.file}: keys and values must be (num_kv_heads, tokens, head_dim), alike in a layer and with the "
                f"same tokens in all; got {shapes}"
            )
        self.num_tokens: int = tokens.pop()
        self._heads = [shape[0] for shape in shapes[::2]]

    def __repr__(self) -> str:
        return f"FileVerbatim({str(self.file)!r}, {self.num_layers} layers, {self.num_tokens} tokens)"

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays in the file."""
        return sum(bytes_of(part[:]) for part in self._slices.values())

    def read(self, layer: int, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Return keys and values of tokens ``start:end``, each (num_kv_heads, tokens, head_dim).

        Raises:
            InputError: no such layer, or the range lies outside the source.
        """
        _check_layer(layer, self.num_layers)
        _check_range(start, end, self.num_tokens)
        keys, values = (self._slices[array_name(layer, array)][:, start:end] for array in ("keys", "values"))
        return keys, values

    def read_keys(self, layer: int, head: int) -> Tensor:
        """Return the keys of one head for all tokens, (tokens, head_dim).

        Raises:
            InputError: no such layer or head.
        """
        _check_layer(layer, self.num_layers)
        _check_head(head, self._heads[layer])
        keys: Tensor = self._slices[array_name(layer, "keys")][head]
        return keys


def _check_layer(layer: int, layers: int) -> None:
    if not 0 <= layer < layers:
        raise InputError(f"no layer {layer}: the verbatim cache holds layers 0 to {layers - 1}")


def _check_head(head: int, heads: int) -> None:
    if not 0 <= head < heads:
        raise InputError(f"no key/value head {head}: the layer holds heads 0 to {heads - 1}")


def _check_range(start: int, end: int, tokens: int) -> None:
    if not 0 <= start <= end <= tokens:
        raise InputError(f"tokens {start}:{end} lie outside the source's 0:{tokens}")
