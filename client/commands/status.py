"""``flwr-edge status`` and ``predictions``: what the daemon says of itself."""

import argparse
import datetime as dt
import json
from typing import Any, Final

from client.commands.control import add_socket
from client.commands.output import emit
from client.local_api import ask

_TIMES: Final = frozenset({"at", "last_at", "window_at"})  # Unix time


def register(nouns: Any) -> None:
    """Add the commands."""
    for name, action, meaning in (
        ("status", "status", "say what the daemon does, holds and waits for"),
        ("predictions", "prediction", "show what was last predicted from the newest windows"),
    ):
        command = nouns.add_parser(
            name,
            help=meaning,
            description=f"{meaning.capitalize()}.",
            epilog=f"examples:\n  flwr-edge {name}\n  flwr-edge {name} --format json\n",
        )
        add_socket(command)
        command.add_argument(
            "--format", choices=("text", "json"), default="text", help="default: text"
        )
        command.set_defaults(run=run, action=action)


def run(arguments: argparse.Namespace) -> None:
    """Ask, and print."""
    found = ask(arguments.socket, arguments.action)
    if arguments.format == "json":
        emit(json.dumps(found, indent=2) + "\n", None)
        return
    lines = _lines(found) or [("none yet", "")]
    width = max((len(key) for key, _ in lines), default=0)
    emit("".join(f"{key:<{width}}  {value}".rstrip() + "\n" for key, value in lines), None)


def _lines(found: dict[str, Any], above: str = "") -> list[tuple[str, str]]:
    """One line a value; a table's keys follow its own."""
    lines: list[tuple[str, str]] = []
    for key, value in found.items():
        name = f"{above} {key}".strip().replace("_", " ")
        if isinstance(value, dict):
            lines += _lines(value, name) or [(name, "none")]
        elif isinstance(value, bool) or value is None:
            lines.append((name, {True: "yes", False: "no", None: "none"}[value]))
        elif key in _TIMES and isinstance(value, int | float):
            when = dt.datetime.fromtimestamp(value, dt.UTC).astimezone()
            lines.append((name, when.isoformat(" ", "seconds")))
        elif isinstance(value, list):
            lines.append((name, " ".join(map(str, value)) or "none"))
        else:
            lines.append((name, str(value)))
    return lines
