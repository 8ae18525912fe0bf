"""The speed benchmark's report → first token, cache and peak memory against context length as a PNG (matplotlib)."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hyperscene_plugin.errors import InputError, MissingPackageError

__all__ = ["check_plotting", "plot_speed"]

_MIB = 1024**2
_COLOURS = {"full": "#7f8c8d", "hypercode": "#c0392b", "hypercode + zoom": "#2c3e50"}


def check_plotting(lengths: Sequence[int]) -> None:
    """Refuse before anything is measured what could not be drawn after it.

    Raises:
        InputError: a single length.
        MissingPackageError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingPackageError("matplotlib", "bench", "drawing the curves")
    if len(set(lengths)) < 2:
        raise InputError("a curve needs at least two context lengths; give several after --context")


def plot_speed(report: dict[str, Any], folder: Path) -> Path:
    """Draw ``folder/speed.png`` from a report with several context lengths; return the file. Errors as above."""
    rows = sorted(report["rows"], key=lambda row: row["context"])
    check_plotting([row["context"] for row in rows])
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lengths = [row["context"] for row in rows]
    panels = [
        ("seconds to the first token", _series(rows, "first_token_s", ("full", "stored", "stored_zoom"), 1)),
        ("MiB of key/value cache", _series(rows, "kv_bytes", ("full", "hypercode", "hypercode_zoom"), _MIB)),
    ]
    if all("memory" in row for row in rows):
        ways = ("full", "stored", "stored_zoom")
        beyond = {
            label: [row["memory"][way]["beyond_weights"] / _MIB for row in rows]
            for label, way in zip(_COLOURS, ways, strict=True)
        }
        panels.append(("MiB of peak memory beyond the weights", beyond))
    figure, axes = pyplot.subplots(1, len(panels), figsize=(5.2 * len(panels), 4.4))
    for axis, (title, lines) in zip(axes, panels, strict=True):
        for label, values in lines.items():
            axis.plot(lengths, values, marker="o", markersize=4, color=_COLOURS[label], label=label)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks(lengths, [f"{length:,}" for length in lengths])
        axis.set_xlabel("tokens of context")
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.suptitle(f"{report['model_config']}, {report['dtype']}, {report['device']}, ratio {report['ratio']:g}")
    figure.tight_layout()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "speed.png"
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
    return file


def _series(rows: list[dict[str, Any]], key: str, names: tuple[str, ...], unit: int) -> dict[str, list[float]]:
    return {label: [row[key][name] / unit for row in rows] for label, name in zip(_COLOURS, names, strict=True)}
