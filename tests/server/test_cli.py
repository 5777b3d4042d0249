"""The frame of ``flwr-fleet``: plugins, exit codes, questions."""

import itertools
import json
import shlex
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest
import typer
from sqlalchemy.exc import OperationalError
from typer.testing import CliRunner

from schemas.base import ConfigError
from server import cli
from server.fleet.commands import options
from server.fleet.errors import FoundError, NotConfirmedError, NotFoundError, Refusal

thing = typer.Typer(help="Things.")


@thing.command("list")
def list_things() -> None:
    """List them."""
    options.write("a thing")


def throw(name: str) -> None:
    """Throw one."""
    options.write(f"threw {name}")


def alone(*, hard: bool = False) -> None:
    """Stand alone."""
    options.write(f"alone {hard}")


@pytest.fixture
def run(monkeypatch):
    """Run a command line of plugins of this file."""
    here = {"thing": "thing", "thing.throw": "throw", "alone": "alone", "other.throw": "throw"}
    points = [EntryPoint(name, f"{__name__}:{value}", cli.GROUP) for name, value in here.items()]
    points.append(EntryPoint("broken", "no_such_module:app", cli.GROUP))
    monkeypatch.setattr(cli, "entry_points", lambda group: points)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[throw.__module__])
    return lambda *words: CliRunner().invoke(cli.build(), words)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["thing", "list"], "a thing\n"),
        (["thing", "throw", "it"], "threw it\n"),
        (["other", "throw", "it"], "threw it\n"),
        (["alone", "--hard"], "alone True\n"),
    ],
)
def test_commands_nouns_and_verbs_are_plugins(run, words, says):
    done = run(*words)
    assert (done.exit_code, done.output) == (0, says)


def test_only_what_is_named_is_loaded_and_the_rest_is_listed(run):
    assert run("thing", "list").exit_code == 0  # though another plugin is broken
    assert "throw" in run("thing", "--help").output
    assert run("nothing").exit_code == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("fleet.toml", ["name: bad", "port: bad"]), 2),
        (NotFoundError("no device a"), 3),
        (NotConfirmedError("nothing was changed"), 4),
        (FoundError("2 faults"), 5),
        (Refusal("no"), 1),
        (RuntimeError("no"), 1),
        (FileNotFoundError(2, "No such file", "x.csv"), 1),
        (OperationalError("SELECT", {}, Exception("locked\nmore")), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_errors_are_lines_and_exit_codes(error, code, capsys):
    def fail():
        raise error

    assert cli.guarded(fail) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == (2 if code == 2 else 1)
    assert all(line.startswith("flwr-fleet: ") for line in lines)


@pytest.mark.parametrize(
    ("cause", "says"),
    [(Exception("locked\nmore"), "the database: locked"), (ValueError(), "ValueError")],
)
def test_of_a_database_what_its_driver_said_is_shown(cause, says, capsys):
    error = OperationalError("SELECT", {}, cause)
    error.add_detail("(raised as a result of Query-invoked autoflush; consider …)")

    def fail():
        raise error

    assert cli.guarded(fail) == 1
    said = capsys.readouterr().err
    assert says in said
    assert "autoflush" not in said


def test_a_word_that_is_no_text_is_wrong_input(capsys, tmp_path):
    word = b"caf\xe9".decode(errors="surrogateescape")
    with pytest.raises(SystemExit) as ended:
        cli.main(["claim", "create", "--note", word, "--fleet", str(tmp_path)])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "flwr-fleet: argument 4: b'caf\\xe9': expected UTF-8\n"


def test_defects_are_not_hidden():
    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.guarded(fail)


def test_who_is_not_there_cannot_confirm(capsys, monkeypatch):
    names = [f"watch-{number}" for number in range(12)]
    assert options.confirm("revoke", names, yes=True, dry_run=False)
    assert not options.confirm("revoke", names, yes=True, dry_run=True)
    assert "would revoke: 12 devices (watch-0, watch-1," in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", open("/dev/null"))  # noqa: SIM115, PTH123
    with pytest.raises(NotConfirmedError, match=r"12 devices .* say --yes"):
        options.confirm("revoke", names, yes=False, dry_run=False)


def test_tables_and_json(capsys):
    rows = [{"id": "a", "n": 1}, {"id": "long", "n": None}]
    head = ("id", "n")

    def table():
        return options.columns(head, ([row[key] for key in head] for row in rows))

    options.answer(rows, options.Format.json, table)
    assert json.loads(capsys.readouterr().out) == rows
    options.answer(rows, options.Format.table, table)
    assert capsys.readouterr().out == "ID    N\na     1\nlong  None\n"
    assert options.columns(head, [], "no things") == "no things"


def test_a_folder_without_a_fleet_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.guarded(lambda: options.Fleet(None)) == 2
    assert "run flwr-fleet init" in capsys.readouterr().err
    (tmp_path / "fleet").mkdir()
    (tmp_path / "fleet" / "fleet.toml").write_text('nam = "x"\n[server]\nport = 70000\n')
    assert cli.guarded(lambda: options.Fleet(None)) == 2
    said = capsys.readouterr().err
    assert "nam = 'x': unknown key; allowed here: name, database" in said
    assert "server.port = 70000" in said


def test_the_command_starts_without_torch_and_flower():
    script = (
        "import sys, server.cli, server.fleet.registry, server.fleet.commands.audit,"
        " server.fleet.commands.device, server.fleet.commands.claim, server.fleet.listing;"
        "print({name.split('.')[0] for name in sys.modules}"
        " & {'torch', 'flwr', 'alembic', 'fastapi', 'cryptography', 'numpy'})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout == "set()\n", done.stderr


def commands():
    """All that are installed, by their words."""
    for name in cli.Plugins().list_commands(None):
        command = cli._load(name)
        for verb, one in getattr(command, "commands", {"": command}).items():
            yield f"{name} {verb}".rstrip(), one


def test_completion_is_offered_once():
    for name in cli.Plugins().list_commands(None):
        known = {param.name for param in cli._load(name).params}
        assert not known & {"install_completion", "show_completion"}, name
    assert "install_completion" in {p.name for p in typer.main.get_command(cli.build()).params}


def test_each_help_has_an_example_whose_words_the_command_takes():
    for words, command in commands():
        *text, example = command.help.split("\n\n")
        assert "\n" not in "".join(text), words  # a terminal breaks lines where it ends
        assert example.startswith(f"Example: flwr-fleet {words}"), words
        lexed = shlex.shlex(example, posix=True, punctuation_chars=True)
        lexed.whitespace_split = True
        line = list(itertools.takewhile(lambda word: word not in ("&&", ">", "|"), lexed))
        command.make_context(words, line[2 + len(words.split()) :])
