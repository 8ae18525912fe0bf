"""Files in many encodings read whole; binary, empty and missing ones are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from hyperscene_plugin.errors import InputError
from hyperscene_plugin.text.reading import read_text_file

RUSSIAN = (
    "Николай Петрович быстро обернулся и, подойдя к высокому человеку, крепко стиснул его обнажённую руку.\r\n" * 9
)
FRENCH = "Où êtes-vous allé hier soir, après le dîner ? Là-bas, près de la forêt, où l'été s'achève déjà.\n" * 9


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1251"])
def test_russian_comes_back_from_every_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes(RUSSIAN.encode(encoding))
    assert read_text_file(path) == RUSSIAN


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-8"])
def test_french_comes_back_from_every_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "livre.txt"
    path.write_bytes(FRENCH.encode(encoding))
    assert read_text_file(path) == FRENCH


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty or blank"),
        (b" \n\t", "empty or blank"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)), "binary"),
        (bytes(range(1, 32)) * 20, "binary"),
        (b"\xff\xfe\x00\xd8\x00\x00", "byte order mark of utf-16-le"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "input.bin"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_text_file(path)


def test_a_missing_file_and_a_folder_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_text_file(tmp_path / "none.txt")
    with pytest.raises(InputError, match="cannot be read"):
        read_text_file(tmp_path)


def test_damaged_utf8_is_named_and_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "cut.txt"
    path.write_bytes(RUSSIAN.encode() + b"\xd0")
    with pytest.raises(InputError, match=rf"UTF-8 but for byte {len(RUSSIAN.encode()):,} \(0xd0\)"):
        read_text_file(path)
