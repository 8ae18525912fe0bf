"""A model's own rotary embedding: positions in, float32 cosines and sines out, with a fingerprint of its parameters."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor

from hyperscene_plugin.errors import InputError
from hyperscene_plugin.model.architectures import attention_shape, check_supported, layer_types, rope_parameters

__all__ = ["ModelRope"]


class ModelRope:
    """The rotary embedding of a supported model; per layer where layers differ (Gemma 3).

    The model rounds cosines and sines to its own dtype before it turns queries and keys; here they stay float32, so
    keys of a bfloat16 model come back within that rounding, not bit for bit.
    """

    def __init__(self, model: Any) -> None:
        """Take the rotary module of ``model``; nothing is copied.

        Raises:
            UnsupportedModelError: the model or its rotary type is not supported.
        """
        check_supported(model)
        self._rotary = model.model.rotary_emb
        self._parameters = rope_parameters(model)
        self._types = layer_types(model)
        self._head_dim = attention_shape(model).head_dim
        self._trained_positions = int(model.config.max_position_embeddings)
        self._max_positions = min(
            (
                int(parameters["original_max_position_embeddings"])
                for parameters in self._parameters.values()
                if parameters.get("rope_type") == "longrope"
            ),
            default=None,
        )

    @property
    def max_positions(self) -> int | None:
        """Positions that may be used; ``None`` for no limit but the model's window.

        Longrope changes every angle once a prompt is longer than the original window, so only that window is safe;
        the live tokens must stay inside it too.
        """
        return self._max_positions

    def cos_sin(self, positions: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Return cosines and sines, each (n, rotary_dim) float32, of ``positions`` (n,) in ``layer``.

        Raises:
            InputError: no such layer, positions of another shape, or beyond :attr:`max_positions`.
        """
        if positions.dim() != 1 or not 0 <= layer < len(self._types):
            raise InputError(
                f"positions must have shape (n,) and the layer be below {len(self._types)}; got "
                f"{tuple(positions.shape)} and layer {layer}"
            )
        if self._max_positions is not None and len(positions) and int(positions.max()) >= self._max_positions:
            raise InputError(
                f"position {int(positions.max())} is outside the model's original window of {self._max_positions}, "
                "beyond which longrope turns all keys by other angles; use fewer scenes, or the text tier"
            )
        like = torch.empty(0, dtype=torch.float32, device=positions.device)
        kind = () if "" in self._parameters else (self._types[layer],)
        cos, sin = self._rotary(like, positions[None], *kind)
        return cos[0].to(positions.device), sin[0].to(positions.device)

    def fingerprint(self) -> str:
        """Return a hash of everything that decides the angles: parameters by layer type, layers, head dimension."""
        facts = {
            "parameters": {kind: dict(parameters) for kind, parameters in self._parameters.items()},
            "layer_types": self._types if "" not in self._parameters else len(self._types),
            "head_dim": self._head_dim,
            "max_position_embeddings": self._trained_positions,
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
