"""What the documents point at is there: files, headings, simulation files, commands."""

import argparse
import re
from pathlib import Path

import click
import pytest
import typer.main

from client import cli as edge
from server import cli as fleet
from simulations import cli as sim

ROOT = Path(__file__).parents[1]
ROOMS = ("client", "edge_kernels", "hypernet", "schemas", "server", "simulations")
COMMAND = r"(?<!-u )(flwr-(?:sim|edge|fleet)) ([a-z][^#|&>]*)"  # behind -u stands a user
DOCUMENTS = [*ROOT.glob("*.md"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.md"))]


def anchors(document: Path) -> set[str]:
    """Headings as the sites that show Markdown spell them in an address."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def code(document: Path) -> list[str]:
    """Indented lines and what stands between backquotes."""
    text = document.read_text(encoding="utf-8")
    return re.findall(r"^    (.*)$", text, re.MULTILINE) + re.findall(r"`([^`\n]+)`", text)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
class TestDocument:
    def test_links_lead_somewhere(self, document: Path) -> None:
        for link in re.findall(r"\]\(([^)]+)\)", document.read_text(encoding="utf-8")):
            if "://" in link:
                continue
            path, _, anchor = link.partition("#")
            target = document.parent / path if path else document
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link

    def test_simulation_files_are_there(self, document: Path) -> None:
        for name in re.findall(r"simulations/[\w-]+\.toml", document.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), name

    def test_commands_and_options_are_there(self, document: Path) -> None:
        if document.name == "CHANGELOG.md":
            pytest.skip("it names what was, too")
        for line in code(document):
            if re.search(r" v1\b", line):  # what a signature is over: no command
                continue
            for name, rest in re.findall(COMMAND, line):
                check(name, rest.split())


def check(name: str, words: list[str]) -> None:
    """Walk down to the command that the words name; each option must be one of its own."""
    known, words = edge_options(words) if name == "flwr-edge" else typer_options(name, words)
    for word in words:
        assert not re.fullmatch(r"--[a-z][a-z-]*", word) or word in known, f"{name}: {word}"


def edge_options(words: list[str]) -> tuple[set[str], list[str]]:
    parser = edge.parser()
    while below := [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]:
        if not words or words[0].startswith("-"):
            break
        assert words[0] in below[0].choices, words
        parser, words = below[0].choices[words[0]], words[1:]
    return set(parser._option_string_actions), words


def typer_options(name: str, words: list[str]) -> tuple[set[str], list[str]]:
    command = typer.main.get_command(sim.app if name == "flwr-sim" else fleet.build())
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        below = command.get_command(click.Context(command), words[0])
        assert below, words
        command, words = below, words[1:]
    return {option for one in command.params for option in one.opts} | {"--help"}, words
