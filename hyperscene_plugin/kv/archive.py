"""A compact cache's folder ↔ one file: a zip, stored without compression, every byte checked by hash.

The same folder always gives the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import stat
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from hyperscene_plugin.errors import HypercodeCorruptError, HypercodeError, HypercodeNotFoundError, HypersceneError
from hyperscene_plugin.kv.manifest import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    SLOTS,
    SOURCE,
    VERBATIM,
    check_files,
    is_plain,
    parse_manifest,
    read_manifest,
)
from hyperscene_plugin.kv.staging import staged_file, staged_folder

__all__ = ["pack", "unpack"]

_MAX_BYTES: Final = 256 * 2**30
_MAX_FILES = 64
_BLOCK = 2**20
_FORBIDDEN_BITS = 0x1 | 0x20 | 0x40  # encrypted, a patch, strongly encrypted


def pack(folder: str | Path, file: str | Path, *, overwrite: bool = False) -> Path:
    """Write the compact cache in ``folder`` as one file and return its path.

    Raises:
        HypercodeNotFoundError: no compact cache there.
        HypercodeCorruptError, HypercodeVersionError: it is damaged, holds links, or a newer release wrote it.
        HypercodeError: ``file`` exists and ``overwrite`` is false, or it cannot be written.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    names = [MANIFEST, *sorted(manifest["files"])]
    for name in names:
        if (folder / name).is_symlink():
            raise HypercodeCorruptError(f"{folder / name} is a link; a compact cache holds plain files only")
    check_files(folder, manifest, "full")
    with (
        staged_file(Path(file), overwrite=overwrite) as staged,
        zipfile.ZipFile(staged, "w", zipfile.ZIP_STORED) as archive,
    ):
        for name in names:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.file_size = (folder / name).stat().st_size  # tells zipfile when it needs 64-bit sizes
            with (folder / name).open("rb") as source, archive.open(entry, "w") as sink:
                digest = _copy(source, sink)
            if name != MANIFEST and digest != manifest["files"][name]["sha256"]:
                raise HypercodeCorruptError(f"{folder / name} was changed while it was packed. Pack it again")
    return Path(file)


def unpack(file: str | Path, folder: str | Path, *, overwrite: bool = False, max_bytes: int = _MAX_BYTES) -> Path:
    """Write the compact cache in ``file`` as a folder and return its path; the file may come from anyone.

    Only the manifest and the plain files that it lists are accepted: no folders, links, compression or encryption,
    nothing twice, at most 64 files and ``max_bytes`` in all.

    Raises:
        HypercodeNotFoundError: no such file.
        HypercodeVersionError: a newer release wrote it.
        HypercodeCorruptError: it is no packed compact cache, or damaged. Nothing was written.
        HypercodeError: it is too large, ``folder`` exists and ``overwrite`` is false, or it cannot be written.
    """
    file, folder = Path(file), Path(folder)
    with _opened(file) as archive:
        entries = _checked_entries(archive, file, max_bytes)
        content = archive.read(MANIFEST)
        manifest = parse_manifest(content, f"{file}: {MANIFEST}")
        listed = {name: described["size"] for name, described in manifest["files"].items()}
        found = {name: entry.file_size for name, entry in entries.items() if name != MANIFEST}
        if listed != found:
            different = sorted(name for name in listed.keys() | found.keys() if listed.get(name) != found.get(name))
            raise HypercodeCorruptError(
                f"{file}: the manifest and the packed files differ in {', '.join(different)}. Get the file again"
            )
        with staged_folder(folder, overwrite=overwrite, known=(MANIFEST, SLOTS, VERBATIM, SOURCE)) as staged:
            for name in found:
                with archive.open(entries[name]) as source, (staged / name).open("xb") as sink:
                    digest = _copy(source, sink)
                stored = manifest["files"][name]["sha256"]
                if digest != stored:
                    raise HypercodeCorruptError(
                        f"{file}: {name} has SHA-256 {digest}, stored was {stored}. Get the file again"
                    )
            (staged / MANIFEST).write_bytes(content)
    return folder


def _checked_entries(archive: zipfile.ZipFile, file: Path, max_bytes: int) -> dict[str, zipfile.ZipInfo]:
    entries = archive.infolist()
    total = sum(entry.file_size for entry in entries)
    if len(entries) > _MAX_FILES or total > max_bytes:
        raise HypercodeError(
            f"{file} holds {len(entries)} files of {total} bytes; accepted are {_MAX_FILES} files and {max_bytes} "
            "bytes. Raise max_bytes if you trust it"
        )
    if total > file.stat().st_size:
        raise HypercodeCorruptError(f"{file} claims {total} bytes of content, more than the file has. Do not use it")
    checked: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        kind = stat.S_IFMT(entry.external_attr >> 16)
        plain = is_plain(entry.filename) and entry.filename == entry.orig_filename and kind in (0, stat.S_IFREG)
        stored = entry.compress_type == zipfile.ZIP_STORED and entry.compress_size == entry.file_size
        if not plain or not stored or entry.flag_bits & _FORBIDDEN_BITS or entry.filename in checked:
            raise HypercodeCorruptError(
                f"{file}: the entry {entry.orig_filename!r} is not a plain, uncompressed file of a compact cache "
                "that occurs once; nothing was unpacked. Do not use it"
            )
        checked[entry.filename] = entry
    if MANIFEST not in checked or checked[MANIFEST].file_size > MAX_MANIFEST_BYTES:
        raise HypercodeCorruptError(f"{file} is no packed compact cache: it has no {MANIFEST}, or an impossible one")
    return checked


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except HypersceneError:
        raise
    except FileNotFoundError:
        raise HypercodeNotFoundError(f"{file} is missing") from None
    except OSError as error:
        raise HypercodeError(f"{file} could not be read ({error})") from error
    except (zipfile.BadZipFile, EOFError, struct.error, ValueError, RuntimeError, OverflowError) as error:
        raise HypercodeCorruptError(f"{file} is no packed compact cache, or damaged ({error})") from error


def _copy(source: IO[bytes], sink: IO[bytes] | Any) -> str:
    """Copy everything and return its SHA-256."""
    digest = hashlib.sha256()
    while block := source.read(_BLOCK):
        digest.update(block)
        sink.write(block)
    return digest.hexdigest()
