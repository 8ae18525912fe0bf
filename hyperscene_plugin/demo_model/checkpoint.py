"""Training checkpoints: one safetensors file with weights, averaged weights, optimizer moments and a JSON state.

Written under a temporary name and renamed, so a kill at any moment leaves the previous checkpoint whole.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from hyperscene_plugin.errors import StoreCorruptError

STATE_KEY = "state"


def save_checkpoint(
    path: Path,
    weights: dict[str, torch.Tensor],
    averaged: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
) -> None:
    """Write everything a run needs to go on, atomically. `state` must be JSON-serialisable."""
    tensors = {f"weights/{k}": v for k, v in weights.items()}
    tensors |= {f"averaged/{k}": v for k, v in averaged.items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{k}": torch.as_tensor(v) for k, v in moments.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    flat = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    save_file(flat, partial, metadata={STATE_KEY: json.dumps(state)})
    partial.replace(path)


def load_checkpoint(path: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    """Read a checkpoint back as ``{"weights": ..., "averaged": ..., "optimizer": {"0/exp_avg": ...}}`` and its state.

    Raises StoreCorruptError for a file that is no whole checkpoint.
    """
    parts: dict[str, dict[str, torch.Tensor]] = {"weights": {}, "averaged": {}, "optimizer": {}}
    try:
        with safe_open(path, framework="pt") as file:
            state = json.loads(file.metadata()[STATE_KEY])
            for key in file.keys():  # noqa: SIM118  (safe_open is no mapping)
                part, name = key.split("/", 1)
                parts[part][name] = file.get_tensor(key)
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise StoreCorruptError(f"{path} is no whole checkpoint ({error}); delete it to start afresh") from error
    except Exception as error:  # safetensors raises its own type for a damaged header
        if type(error).__name__ != "SafetensorError":
            raise
        raise StoreCorruptError(f"{path} is damaged ({error}); delete it to start afresh") from error
    return parts, state


def restore_optimizer(optimizer: torch.optim.Optimizer, moments: dict[str, torch.Tensor]) -> None:
    """Put the moments of `load_checkpoint` back into a freshly made optimizer over the same parameters."""
    saved = optimizer.state_dict()
    entries: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in moments.items():
        index, key = name.split("/", 1)
        entries.setdefault(int(index), {})[key] = tensor
    saved["state"] = entries
    optimizer.load_state_dict(saved)
