"""The hypercode benchmark's report → accuracy against ratio as a PNG (matplotlib, from the ``bench`` extra)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hyperscene_plugin.errors import MissingPackageError

__all__ = ["plot_accuracy"]

_STRONG = {"hypercode": ("#c0392b", "-"), "hypercode + zoom": ("#2c3e50", "-")}


def plot_accuracy(report: dict[str, Any], folder: Path) -> Path:
    """Draw one panel a context length into ``folder/accuracy.png``; return the file.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
    except ImportError as error:
        raise MissingPackageError("matplotlib", "bench", "drawing the curves") from error
    lengths = list(dict.fromkeys(row["length"] for row in report["rows"]))
    figure, axes = pyplot.subplots(1, len(lengths), figsize=(7 * len(lengths), 5), sharey=True, squeeze=False)
    for axis, length in zip(axes[0], lengths, strict=True):
        rows = [r for r in report["rows"] if r["length"] == length and r["ratio"] and r["ratio"] > 1]
        for method in dict.fromkeys(r["method"] for r in rows):
            points = sorted((r["ratio"], r["relative"]) for r in rows if r["method"] == method)
            if len(points) < 3:
                continue
            colour, line = _STRONG.get(method, (None, "--"))
            width = 2.5 if method in _STRONG else 1.0
            axis.plot(
                *zip(*points, strict=True), line, color=colour, linewidth=width, marker="o", markersize=3, label=method
            )
        axis.set_xscale("log")
        axis.set_xticks([4, 12, 20, 50], ["4×", "12×", "20×", "50×"])
        axis.minorticks_off()
        axis.set_title(length)
        axis.set_xlabel("bytes of the full cache ÷ bytes kept")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("exact answers, relative to the full context")
    axes[0][-1].legend(fontsize=7, loc="lower left")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "accuracy.png"
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
    return file
