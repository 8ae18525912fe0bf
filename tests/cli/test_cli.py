"""The command line as a user types it: results on standard output, remarks on standard error, honest exit codes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from hyperscene_plugin.cli.app import run
from tests.tiny_model import save_tiny_model

TEXT = (
    "Anna lives in Oslo with a grey cat. The house stands by the water, has seven windows, a red door and a cold attic "
    "where old letters are kept in wooden boxes that nobody has opened for years.\n\n"
    "Boris plays the drum in Lima. Every evening the band meets behind the market, and people from the whole quarter "
    "come to dance until the lamps are put out and the last tram has left.\n\n"
    "Cleo repairs clocks in Turin. Customers bring watches, tower bells and kitchen timers, and pay with cheese, "
    "wine or long stories about how the thing was broken.\n"
)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("models") / "wide", window=2048)


@pytest.fixture
def cli(tmp_path, model_folder, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYPERSCENE_STORE", str(tmp_path / "scenes.db"))
    monkeypatch.setenv("HYPERSCENE_MODEL", str(model_folder))
    monkeypatch.setenv("HYPERSCENE_DEVICE_MAP", "cpu")
    monkeypatch.setenv("HYPERSCENE_ENCODER", "none")
    monkeypatch.setenv("HYPERSCENE_TOKENIZER", str(model_folder))
    (tmp_path / "notes.md").write_text(TEXT, encoding="utf-8")

    def call(*arguments):
        code = run(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def as_json(result):
    code, out, err = result
    assert code == 0, err
    return json.loads(out)


def test_remember_ask_explain_and_forget(cli):
    first = as_json(cli("remember", "notes.md", "--json"))
    assert first["added"] > 0
    assert first["source_ids"] == ["notes.md"]
    assert as_json(cli("remember", "notes.md", "--json"))["added"] == 0

    answer = as_json(cli("ask", "Who plays the drum?", "--max-tokens", "400", "--max-new-tokens", "5", "--json"))
    assert answer["usage"]["completion_tokens"] <= 5
    assert "Boris" in answer["plan"]["messages"][0]["content"]

    code, out, _ = cli("explain", "Who plays the drum?", "--max-tokens", "400", "--all")
    assert code == 0
    assert "in the prompt:" in out

    listed = as_json(cli("scenes", "list", "--json"))
    assert listed["total"] == first["added"]
    shown = as_json(cli("scenes", "show", listed["scenes"][0]["id"], "--json"))
    assert shown["text"] == listed["scenes"][0]["text"]
    assert "Boris" in as_json(cli("scenes", "search", "drums", "--json"))["hits"][0]["scene"]["text"]
    assert as_json(cli("scenes", "sources", "--json"))[0]["source_id"] == "notes.md"

    forgotten = as_json(cli("scenes", "forget", "--source", "notes.md", "--json"))
    assert (forgotten["removed"], forgotten["remaining"]) == (first["added"], 0)
    assert as_json(cli("scenes", "list", "--json"))["total"] == 0


def test_export_and_import_into_an_empty_store(cli, monkeypatch, tmp_path):
    added = as_json(cli("remember", "notes.md", "--json"))["added"]
    assert as_json(cli("scenes", "export", "out.zip", "--json"))["scenes"] == added
    monkeypatch.setenv("HYPERSCENE_STORE", str(tmp_path / "other.db"))
    assert as_json(cli("scenes", "import", "out.zip", "--json"))["added"] == added
    assert as_json(cli("scenes", "list", "--json"))["total"] == added


def test_users_are_apart(cli):
    cli("remember", "notes.md", "--user", "anna")
    assert as_json(cli("scenes", "list", "--user", "boris", "--json"))["total"] == 0
    assert as_json(cli("scenes", "list", "--user", "anna", "--json"))["total"] > 0


def test_a_streamed_answer_is_the_same_as_the_json_one(cli):
    cli("remember", "notes.md")
    code, out, _ = cli("ask", "Who?", "--max-new-tokens", "6")
    assert code == 0
    assert out.rstrip("\n") == as_json(cli("ask", "Who?", "--max-new-tokens", "6", "--json"))["answer"].rstrip("\n")


def test_compress_by_tokens_and_by_ratio(cli):
    result = as_json(cli("compress", "notes.md", "-q", "Who repairs clocks?", "--max-tokens", "240", "--json"))
    assert "Cleo" in result["text"]
    assert result["tokens_after"] <= 240
    by_ratio = as_json(cli("compress", "notes.md", "-q", "Who repairs clocks?", "--ratio", "2", "--json"))
    assert by_ratio["token_ratio"] >= 2
    code, out, err = cli("compress", "notes.md", "-q", "Who repairs clocks?", "--max-tokens", "240")
    assert code == 0
    assert out.strip() == result["text"].strip()
    assert "scenes kept" in err


def test_a_chat_file_is_read_as_messages(cli, tmp_path):
    chat = [
        {"role": "user", "name": "Mila", "content": "I adopted a parrot.", "created_at": "2024-03-01"},
        {"role": "user", "name": "Omar", "content": "What is it called?", "created_at": "2024-03-01"},
    ]
    (tmp_path / "chat.jsonl").write_text("\n".join(json.dumps(message) for message in chat), encoding="utf-8")
    assert as_json(cli("remember", "chat.jsonl", "--json"))["added"] == 2
    assert as_json(cli("scenes", "list", "--json"))["scenes"][0]["speaker"] == "Mila"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("bogus",), 2, "No such command"),
        (("ask",), 2, "Missing argument"),
        (("remember", "missing.md"), 1, "missing.md"),
        (("compress", "notes.md"), 2, "--max-tokens N or as --ratio R"),
        (("compress", "notes.md", "--max-tokens", "1"), 1, "smaller than the smallest"),
        (("scenes", "forget"), 2, "say what to forget"),
        (("scenes", "show", "hs_" + "0" * 32), 1, "hs_000"),
        (("scenes", "list", "--user", " "), 1, "non-empty"),
        (("ask", "Who?", "--model", "./nowhere"), 1, "does not exist"),
        (("remember", "empty.md"), 1, "empty"),
        (("remember", "broken.json"), 1, "not valid JSON"),
        (("remember", "object.json"), 1, "list of messages"),
        (("remember", "binary.bin"), 1, "binary"),
    ],
)
def test_errors_are_one_line_with_an_honest_code(cli, tmp_path, arguments, code, message):
    (tmp_path / "empty.md").write_text("")
    (tmp_path / "broken.json").write_text("[{")
    (tmp_path / "object.json").write_text('{"a": 1}')
    (tmp_path / "binary.bin").write_bytes(bytes(range(256)) * 20)
    got, out, err = cli(*arguments)
    assert got == code
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert out == ""


def test_errors_are_json_when_asked(cli):
    code, _, err = cli("remember", "missing.md", "--json")
    assert code == 1
    assert json.loads(err)["error"]["type"] == "InputError"


def test_a_refused_input_loses_nothing(cli, tmp_path):
    before = as_json(cli("remember", "notes.md", "--json"))["added"]
    (tmp_path / "binary.bin").write_bytes(bytes(range(256)) * 20)
    cli("remember", "binary.bin")
    assert as_json(cli("scenes", "list", "--json"))["total"] == before


def test_config_shows_where_a_setting_comes_from(cli, tmp_path, monkeypatch):
    (tmp_path / "hyperscene.toml").write_text('encoder = "minilm"\nuser_id = "from-file"\n')
    shown = as_json(cli("config", "--json"))
    assert shown["settings"]["user_id"] == "from-file"
    assert shown["settings"]["encoder"] == "none"  # the environment wins over the file
    (tmp_path / "hyperscene.toml").write_text('encodr = "minilm"\n')
    code, _, err = cli("config")
    assert code == 2
    assert "did you mean 'encoder'" in err


def test_doctor_passes_here_and_fails_on_a_missing_model(cli):
    code, out, _ = cli("doctor", "--json")
    assert code == 0, out
    assert {check["name"] for check in json.loads(out)} >= {"store", "model", "encoder", "torch"}
    assert cli("doctor", "--model", "./nowhere")[0] == 1


def test_help_names_every_command_and_a_real_process_works(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "from hyperscene_plugin.cli import main; main()"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0
    for command in ("analyze", "compress", "remember", "ask", "explain", "scenes", "doctor", "demo"):
        assert command in done.stdout


def test_analyze_counts_every_stage(cli):
    counts = as_json(cli("analyze", "notes.md", "--json"))["counts"]
    assert counts["tokens"] > counts["words"] > counts["couplings"] > counts["hypertokens"] > counts["scenes"] > 0
    code, out, _ = cli("analyze", "notes.md")
    assert code == 0
    for stage in ("tokens", "morphemes", "endings", "hypertokens", "themes"):
        assert stage in out
