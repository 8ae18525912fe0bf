"""The full, un-rotated keys and values of a source: in memory, or read from a safetensors file range by range."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from hyperscene_plugin.errors import HypercodeCorruptError, InputError
from hyperscene_plugin.kv.arrays import array_name, open_arrays
from hyperscene_plugin.kv.layout import bytes_of

__all__ = ["FileVerbatim", "MemoryVerbatim"]

_ARRAY = re.compile(r"layers\.(0|[1-9][0-9]{0,5})\.(?:keys|values)")


class MemoryVerbatim:
    """``VerbatimKV`` over tensors: per layer ``(keys, values)``, each (num_kv_heads, tokens, head_dim), or ``None``.

    ``None`` stands for a layer that is never zoomed (one with a sliding window): nothing of it is kept. What it returns
    are views: writing into them changes it.

    Raises:
        InputError: shapes differ within a layer, or layers hold different numbers of tokens.
    """

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor] | None]) -> None:
        self._layers = tuple(layers)
        held = [(number, *layer) for number, layer in enumerate(self._layers) if layer is not None]
        tokens = {keys.shape[1] for _, keys, _ in held if keys.dim() == 3}
        for number, keys, values in held:
            if keys.dim() != 3 or values.shape != keys.shape or len(tokens) != 1:
                raise InputError(
                    f"verbatim layer {number} needs keys and values of one shape (num_kv_heads, tokens, head_dim) and "
                    f"all layers the same tokens; got {tuple(keys.shape)}, {tuple(values.shape)}, tokens {tokens}"
                )
        self._num_tokens = tokens.pop() if tokens else 0

    def __repr__(self) -> str:
        return f"MemoryVerbatim({self.num_layers} layers, {self.num_tokens} tokens, {self.nbytes} bytes)"

    @property
    def num_layers(self) -> int:
        """Layers of the model, held or not."""
        return len(self._layers)

    @property
    def num_tokens(self) -> int:
        """Source tokens held."""
        return self._num_tokens

    def has_layer(self, layer: int) -> bool:
        """Tell whether a layer can be read."""
        return 0 <= layer < self.num_layers and self._layers[layer] is not None

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(bytes_of(*layer) for layer in self._layers if layer is not None)

    def read(self, layer: int, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Return keys and values of tokens ``start:end``, each (num_kv_heads, tokens, head_dim).

        Raises:
            InputError: no such layer, one that is not kept, or the range lies outside the source.
        """
        keys, values = self._held(layer)
        _check_range(start, end, self.num_tokens)
        return keys[:, start:end], values[:, start:end]

    def read_keys(self, layer: int, head: int) -> Tensor:
        """Return the keys of one head for all tokens, (tokens, head_dim).

        Raises:
            InputError: no such layer or head, or a layer that is not kept.
        """
        keys, _ = self._held(layer)
        _check_head(head, keys.shape[0])
        return keys[head]

    def _held(self, layer: int) -> tuple[Tensor, Tensor]:
        held = self._layers[layer] if 0 <= layer < self.num_layers else None
        if held is None:
            raise _no_layer(layer, self.num_layers)
        return held


class FileVerbatim:
    """``VerbatimKV`` over a safetensors file (``layers.N.keys`` and ``layers.N.values``), mapped, not read.

    Layers that the file lacks are not kept (they have a sliding window); ``num_layers`` counts them too, and is by
    default what the file's last layer shows. Only the pages of the wanted tokens and head come into memory, when they
    are used. What it returns are views of a private mapping: valid as long as they live, also when the file is
    deleted or replaced by rename (on Windows a mapped file cannot be deleted). A file that another program shortens
    in place ends the process; this package never writes into a finished file.

    Raises:
        HypercodeNotFoundError: there is no such file.
        HypercodeCorruptError: it is no safetensors file, or its arrays are not those of a verbatim cache.
    """

    def __init__(self, file: str | Path, num_layers: int | None = None) -> None:
        self.file = Path(file)
        self._handle = open_arrays(self.file)
        names = set(self._handle.keys())
        held = sorted({int(found[1]) for name in names if (found := _ARRAY.fullmatch(name))})
        self.num_layers = num_layers if num_layers is not None else max(held, default=-1) + 1
        wanted = [array_name(layer, array) for layer in held for array in ("keys", "values")]
        if not wanted or names != set(wanted) or held[-1] >= self.num_layers:
            raise HypercodeCorruptError(
                f"{self.file} does not hold keys and values of layers 0 to {self.num_layers - 1}; it holds {names}"
            )
        self._slices = {name: self._handle.get_slice(name) for name in wanted}
        shapes = [tuple(self._slices[name].get_shape()) for name in wanted]
        tokens = {shape[1] for shape in shapes if len(shape) == 3}
        if len(tokens) != 1 or any(len(a) != 3 or a != b for a, b in zip(shapes[::2], shapes[1::2], strict=True)):
            raise HypercodeCorruptError(
                f"{self.file}: keys and values must be (num_kv_heads, tokens, head_dim), alike in a layer and with the "
                f"same tokens in all; got {shapes}"
            )
        self._num_tokens: int = tokens.pop()
        self._heads = {layer: shape[0] for layer, shape in zip(held, shapes[::2], strict=True)}

    def __repr__(self) -> str:
        return f"FileVerbatim({str(self.file)!r}, {self.num_layers} layers, {self.num_tokens} tokens)"

    @property
    def num_tokens(self) -> int:
        """Source tokens held."""
        return self._num_tokens

    def has_layer(self, layer: int) -> bool:
        """Tell whether a layer can be read."""
        return layer in self._heads

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays in the file."""
        return sum(bytes_of(part[:]) for part in self._slices.values())

    def read(self, layer: int, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Return keys and values of tokens ``start:end``, each (num_kv_heads, tokens, head_dim).

        Raises:
            InputError: no such layer, one that is not kept, or the range lies outside the source.
        """
        self._check_layer(layer)
        _check_range(start, end, self.num_tokens)
        keys, values = (self._slices[array_name(layer, array)][:, start:end] for array in ("keys", "values"))
        return keys, values

    def read_keys(self, layer: int, head: int) -> Tensor:
        """Return the keys of one head for all tokens, (tokens, head_dim).

        Raises:
            InputError: no such layer or head, or a layer that is not kept.
        """
        self._check_layer(layer)
        _check_head(head, self._heads[layer])
        keys: Tensor = self._slices[array_name(layer, "keys")][head]
        return keys

    def _check_layer(self, layer: int) -> None:
        if layer not in self._heads:
            raise _no_layer(layer, self.num_layers)


def _no_layer(layer: int, layers: int) -> InputError:
    if 0 <= layer < layers:
        return InputError(f"layer {layer} has a sliding window, so its verbatim keys and values are not kept")
    return InputError(f"no layer {layer}: the model has layers 0 to {layers - 1}")


def _check_head(head: int, heads: int) -> None:
    if not 0 <= head < heads:
        raise InputError(f"no key/value head {head}: the layer holds heads 0 to {heads - 1}")


def _check_range(start: int, end: int, tokens: int) -> None:
    if not 0 <= start <= end <= tokens:
        raise InputError(f"tokens {start}:{end} lie outside the source's 0:{tokens}")
