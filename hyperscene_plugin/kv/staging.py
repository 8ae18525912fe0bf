"""A folder or file, whole or not at all: written beside its target under a temporary name, fsynced, renamed.

    name                     the target
    .name.tmp-<16 hex>       being written, or left by a crash; removed by a later save once an hour old
    .name.old-<16 hex>       the former target while it is replaced; a crash between the two renames leaves only it

Two writers of one target: the last rename wins, the other one gets an error.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from hyperscene_plugin.errors import HypercodeError, HypersceneError, InputError

__all__ = ["is_temporary", "replaced_folders", "staged_file", "staged_folder"]

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<kind>tmp|old)-[0-9a-f]{16}", re.DOTALL)
_STALE_SECONDS = 3600.0


def is_temporary(folder: Path) -> bool:
    """Tell whether the name is one of a folder being written."""
    match = _TEMPORARY.fullmatch(folder.name)
    return match is not None and match["kind"] == "tmp"


def replaced_folders(target: Path) -> list[Path]:
    """Return what interrupted replacements of ``target`` left beside it, complete and under another name."""
    return [folder for folder, kind in _leftovers(target) if kind == "old"]


@contextlib.contextmanager
def staged_folder(target: Path, *, overwrite: bool, known: Collection[str]) -> Iterator[Path]:
    """Give an empty folder to write into; it becomes ``target`` when the block ends, or is removed if it fails.

    An empty folder at ``target`` is taken over. A full one is replaced with ``overwrite``, and only if every name in
    it is ``known``: nothing of anyone else's is deleted.

    Raises:
        InputError: the path names no folder.
        HypercodeError: the target exists, holds other things, or cannot be written.
    """
    target = _resolved(target)
    with _mapped(target):
        _check_folder(target, overwrite, known)
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = _sibling(target, "tmp")
        staged.mkdir()
        try:
            yield staged
            for file in staged.iterdir():
                _sync(file)
            _sync(staged)
            _check_folder(target, overwrite, known)
            _publish(staged, target)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        for leftover, kind in _leftovers(target):
            with contextlib.suppress(OSError):  # another writer may remove it first
                if kind == "old" or leftover.stat().st_mtime < time.time() - _STALE_SECONDS:
                    shutil.rmtree(leftover)


@contextlib.contextmanager
def staged_file(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a path to write to; its file becomes ``target`` when the block ends, or is removed if it fails.

    Raises:
        InputError: the path names no file.
        HypercodeError: the target exists, or cannot be written.
    """
    target = _resolved(target)
    with _mapped(target):
        if target.is_dir() or (target.exists() and not overwrite):
            raise HypercodeError(f"{target} exists. Choose another name, or overwrite it if it is a file")
        target.parent.mkdir(parents=True, exist_ok=True)
        staged = _sibling(target, "tmp")
        try:
            yield staged
            _sync(staged)
            staged.replace(target)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
        _sync(target.parent)


def _resolved(target: Path) -> Path:
    try:
        resolved = target.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{str(target)!r} is no path ({error})") from error
    if not resolved.name or _TEMPORARY.fullmatch(resolved.name):
        raise InputError(f"{resolved} cannot be a target: it has no name, or one of a temporary file")
    return resolved


def _check_folder(target: Path, overwrite: bool, known: Collection[str]) -> None:
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise HypercodeError(f"{target} exists and is no folder. Choose another name")
    held = sorted(path.name for path in target.iterdir())
    if held and not overwrite:
        raise HypercodeError(f"{target} exists. Choose another folder, or overwrite it")
    other = [name for name in held if name not in known]
    if other:
        raise HypercodeError(
            f"{target} holds {', '.join(other[:5])}, no part of a compact cache; it was not replaced. "
            "Choose another folder"
        )


def _publish(staged: Path, target: Path) -> None:
    with contextlib.suppress(OSError):
        target.rmdir()  # an empty one
    former = _sibling(target, "old") if target.exists() else None
    try:
        if former is not None:
            target.rename(former)
        staged.rename(target)
    except BaseException:
        if former is not None and former.exists():
            with contextlib.suppress(OSError):
                former.rename(target)
        raise
    _sync(target.parent)


def _sibling(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.{kind}-{secrets.token_hex(8)}")


def _leftovers(target: Path) -> list[tuple[Path, str]]:
    try:
        paths = list(target.parent.iterdir())
    except OSError:
        return []
    found = ((path, _TEMPORARY.fullmatch(path.name)) for path in paths)
    return [(path, match["kind"]) for path, match in found if match and match["name"] == target.name and path.is_dir()]


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open a folder for that
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _mapped(target: Path) -> Iterator[None]:
    try:
        yield
    except HypersceneError:
        raise
    except OSError as error:
        raise HypercodeError(
            f"{target} could not be written ({error.strerror or error}). Check the rights and the free space"
        ) from error
