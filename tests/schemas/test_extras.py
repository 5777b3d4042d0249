"""A command without its extra says in one line which it is."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

# As on a device that has flwr-edge alone: what is None here cannot be imported.
START = """
import sys
for name in {missing!r}:
    sys.modules[name] = None
sys.argv[1:] = {words!r}
from {room}.start import main
main()
"""


def start(room: str, missing: list[str], *words: str) -> tuple[int, str]:
    code = START.format(room=room, missing=missing, words=list(words))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("room", "package", "words", "line"),
    [
        ("server", "click", ["--help"], "flwr-fleet: needs the package click: {}[server]'"),
        (
            "server",
            "cryptography",
            ["init"],
            "flwr-fleet: needs the package cryptography: {}[server]'",
        ),
        ("simulations", "typer", ["list"], "flwr-sim: needs the package typer: {}[sim]'"),
        ("simulations", "rich", ["list"], "flwr-sim: needs the package rich: {}[sim]'"),
    ],
)
def test_what_is_missing_is_named(room: str, package: str, words: list[str], line: str) -> None:
    code, said = start(room, [package], *words)
    assert (code, said) == (1, line.format("pip install 'flwr-edge") + "\n")


def test_what_is_of_no_extra_of_ours_is_not_hidden() -> None:
    code, said = start("simulations", ["server.garbage"], "list")
    assert code == 1
    assert "Traceback" in said


def test_all_that_is_installed_runs() -> None:
    assert start("server", [], "--help") == (0, "")


def test_the_commands_start_so() -> None:
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    scripts = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["scripts"]
    assert scripts["flwr-fleet"] == "server.start:main"
    assert scripts["flwr-sim"] == "simulations.start:main"
