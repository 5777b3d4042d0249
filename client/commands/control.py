"""``flwr-edge pause`` and ``resume``: the person's hand on the daemon."""

import argparse
from pathlib import Path
from typing import Any

from client.commands.output import emit
from client.local_api import ask, default_socket


def register(nouns: Any) -> None:
    """Add the commands."""
    for name, meaning in (
        ("pause", "take no more work until resumed; windows are still gathered"),
        ("resume", "take work again"),
    ):
        command = nouns.add_parser(name, help=meaning, description=f"{meaning.capitalize()}.")
        add_socket(command)
        command.set_defaults(run=run, action=name, done=f"{name}d\n")


def add_socket(command: argparse.ArgumentParser) -> None:
    """Add ``--socket``."""
    command.add_argument(
        "--socket",
        type=Path,
        default=default_socket(),
        metavar="PATH",
        help="the daemon's; default: $FLWR_EDGE_SOCKET or %(default)s",
    )


def run(arguments: argparse.Namespace) -> None:
    """Ask the daemon."""
    ask(arguments.socket, arguments.action)
    emit(arguments.done, None)
