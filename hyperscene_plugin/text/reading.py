"""A file's path → its text, whatever encoding it is in; nothing is lost and binary files are refused."""

from __future__ import annotations

import codecs
from pathlib import Path

from hyperscene_plugin.errors import InputError

__all__ = ["read_text_file"]

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_COMMON_ENCODINGS = [
    *("cp1252", "cp1251", "cp1250", "koi8_r", "cp866", "cp1253", "cp1254", "cp1255", "cp1256"),
    *("gb18030", "big5", "shift_jis", "euc_jp", "euc_kr"),
]
"""Tried before the rarer ones; on a tie Western European wins over the look-alike Baltic and Central European."""
_SAMPLE_BYTES = 200_000
_BINARY_SHARE = 0.02


def read_text_file(path: str | Path) -> str:
    """Return the text of the file at ``path``; line ends stay as they are in the file.

    A byte order mark decides; else UTF-8 where the bytes are valid; else UTF-16 without a mark where every other
    byte says so; else what charset-normalizer finds on a sample (the common encodings first: cp1252, cp1251, …), which
    must decode every byte.

    Raises:
        InputError: no such file, a folder, not readable, empty or blank, binary, damaged UTF-8, or in no
            encoding that decodes every byte.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); expected a text file") from error
    text = _decoded(data, path)
    if not text.strip():
        raise InputError(f"{path}: the file is empty or blank ({len(data):,} bytes); expected some text")
    return text


def _decoded(data: bytes, path: Path) -> str:
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            try:
                return data[len(bom) :].decode(encoding)
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{path}: starts with the byte order mark of {encoding} but byte {error.start + len(bom):,} is "
                    "not valid in it; save the file again as UTF-8"
                ) from error
    if not _looks_binary(data):
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            if _is_damaged_utf8(data):
                raise InputError(
                    f"{path}: UTF-8 but for byte {error.start:,} ({data[error.start]:#04x}), and perhaps more; nothing "
                    "is dropped or guessed. Repair the file, or decode it with errors='replace' and pass the text"
                ) from error
            return _detected(data, path)
    wide = _wide_encoding(data)
    if wide is not None:
        return wide
    raise InputError(
        f"{path}: this is a binary file ({len(data):,} bytes, control bytes among the first); expected text. "
        "Convert it (PDF, DOCX, …) to text or Markdown first"
    )


def _is_damaged_utf8(data: bytes) -> bool:
    """Whether fewer than one in fifty of the characters beyond ASCII fail to decode as UTF-8."""
    text = data.decode("utf-8", "replace")
    return text.count("\ufffd") * 50 < len(text) - len(text.encode("ascii", "ignore"))


def _looks_binary(data: bytes) -> bool:
    """NUL bytes, or more than 2% control bytes, in the first part of the file."""
    sample = data[:_SAMPLE_BYTES]
    if b"\0" in sample:
        return True
    controls = len(sample) - len(sample.translate(None, bytes(b for b in range(32) if b not in b"\t\n\r\f\x1b\x1a")))
    return controls > _BINARY_SHARE * len(sample)


def _wide_encoding(data: bytes) -> str | None:
    """The text of UTF-16 without a mark: one of the two byte columns repeats far more than the other."""
    if len(data) < 4 or len(data) % 2:
        return None
    even, odd = data[:_SAMPLE_BYTES:2], data[1:_SAMPLE_BYTES:2]
    for encoding, high in (("utf-16-le", odd), ("utf-16-be", even)):
        if sum(high.count(byte) for byte in (0x00, 0x04, 0x20)) < 0.9 * len(high):
            continue
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text and sum(map(str.isprintable, text[:10_000])) > 0.8 * len(text[:10_000]):
            return text
    return None


def _detected(data: bytes, path: Path) -> str:
    from charset_normalizer import from_bytes

    middle = len(data) // 2
    sample = (
        data if len(data) <= _SAMPLE_BYTES else data[: _SAMPLE_BYTES // 2] + data[middle : middle + _SAMPLE_BYTES // 2]
    )
    tried: list[str] = []
    for isolation in (_COMMON_ENCODINGS, None):
        matches = list(from_bytes(sample, cp_isolation=isolation))
        if isolation is not None:
            matches.sort(key=lambda match: (match.chaos, -match.coherence, match.encoding != "cp1252"))
        for match in matches:
            tried.append(match.encoding)
            try:
                return data.decode(match.encoding)
            except (UnicodeDecodeError, LookupError):
                continue
    seen = f" (tried {', '.join(tried)})" if tried else ""
    raise InputError(
        f"{path}: neither UTF-8 nor in an encoding that could be detected{seen}; save the file again as UTF-8"
    )
