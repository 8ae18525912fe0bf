"""This process's resident memory in bytes: now, at its largest, and the largest forgotten. Linux only (``/proc``)."""

from __future__ import annotations

from pathlib import Path

from hyperscene_plugin.errors import HypersceneError

__all__ = ["MALLOC", "forget_largest", "largest", "resident"]

MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(64 * 1024)}
"""Environment of a measured process: glibc gives every tensor above 64 KiB back at once, instead of keeping it."""


def resident() -> int:
    """Return the bytes that are resident now."""
    return _status("VmRSS")


def largest() -> int:
    """Return the most bytes that were resident since :func:`forget_largest`, or since the process started."""
    return _status("VmHWM")


def forget_largest() -> str:
    """Make the kernel forget the largest resident size so far; say whether it did."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return "largest resident size since the process started (it cannot be reset here)"
    return "largest resident size since the model was built"


def _status(field: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError as error:
        raise HypersceneError(f"resident memory cannot be read ({error}); this measurement runs on Linux") from error
    for line in lines:
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise HypersceneError(f"/proc/self/status has no {field}; this measurement runs on Linux")
