"""``hyperscene hypercode``: compact, ask, show, store, calibrate, as a user types them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from hyperscene_plugin.cli.app import run

NOTES = (
    "Anna lives in Oslo. Boris works as a baker. The locker number of Clara is 4821. Victor lives in Lisbon. "
    "Clara has a birthday on 12 March. Peter lives in Riga and speaks Latin. Ines studies chemistry. "
    "The pet of Leon is a parrot. Sonia likes the colour black best. London is the home of Mario.\n"
)


@pytest.fixture
def notes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "notes.txt"
    file.write_text(NOTES, encoding="utf-8")
    return file


def printed(capsys) -> Any:
    return json.loads(capsys.readouterr().out)


def test_compact_then_ask_then_show(notes, capsys):
    assert (
        run(["hypercode", "compact", str(notes), "--out", "n.hyper", "--ratio", "4", "--quality", "best", "--json"])
        == 0
    )
    facts = printed(capsys)
    assert facts["bytes"] + facts["zoom_bytes"] <= facts["full_bytes"] / 4
    assert run(["hypercode", "ask", "Where does Victor live?", "n.hyper", "--json"]) == 0
    answer = printed(capsys)
    assert answer["text"].strip() == "Lisbon."
    assert answer["caches"][0]["source_id"] == "notes.txt"
    assert "Victor lives in Lisbon" in " ".join(answer["caches"][0]["zoomed_text"])
    assert run(["hypercode", "show", "n.hyper", "--json"]) == 0
    assert printed(capsys)["num_source_tokens"] == facts["source_tokens"]


def test_an_existing_folder_is_not_overwritten(notes, capsys):
    arguments = ["hypercode", "compact", str(notes), "--out", "n.hyper", "--ratio", "4", "--json"]
    assert run(arguments) == 0
    assert run(arguments) == 1
    assert "n.hyper" in capsys.readouterr().err
    assert run([*arguments, "--overwrite"]) == 0


def test_a_stored_source_is_answered_from_hypercode(notes, capsys):
    base = ["--store", "m.db"]
    assert run(["remember", str(notes), "--encoder", "none", *base, "--json"]) == 0
    assert run(["hypercode", "store", "notes.txt", "--ratio", "4", *base, "--json"]) == 0
    capsys.readouterr()
    assert run(["ask", "Where does Anna live?", "--encoder", "none", *base, "--json"]) == 0
    reply = printed(capsys)
    assert reply["answer"].strip() == "Oslo."
    assert {a["tier"] for a in reply["plan"]["activations"]} <= {"hypercode", "zoom"}
    assert run(["hypercode", "store", "notes.txt", "--remove", *base, "--json"]) == 0
    assert printed(capsys)["removed"] is True


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compact", "notes.txt", "--out", "x", "--ratio", "1"], "between 2 and 64"),
        (["compact", "notes.txt", "--out", "x", "--quality", "superb"], "fast, balanced, best"),
        (["ask", "Who?", "nowhere"], "nowhere"),
        (["store", "nothing", "--store", "m.db"], "no source 'nothing'"),
        (["calibrate", "notes.txt"], "--out"),
    ],
)
def test_errors_say_what_to_do(notes, capsys, arguments, words):
    assert run(["hypercode", *arguments]) == 1
    assert words in " ".join(capsys.readouterr().err.split())
