"""``flwr-edge info``: what runs here."""

import argparse
import json
from typing import Any

from client.commands.output import emit

_EPILOG = """\
examples:
  flwr-edge info
  flwr-edge info --format json
  FLWR_EDGE_ISA=avx2 flwr-edge info     what another instruction set would say
"""


def register(nouns: Any) -> None:
    """Add the command."""
    command = nouns.add_parser(
        "info",
        help="say what runs here: instruction set, operators, versions",
        description="Say what runs here: the kernels' instruction set, the CPU features they use,\n"
        "the operators of the domain flwr.edge, and versions.",
        epilog=_EPILOG,
    )
    command.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print it."""
    import edge_kernels

    found = dict(edge_kernels.info())
    if arguments.format == "json":
        emit(json.dumps(found, indent=2) + "\n", None)
        return
    width = max(map(len, found))
    lines = (f"{key.replace('_', ' '):<{width}}  {_text(value)}\n" for key, value in found.items())
    emit("".join(lines), None)


def _text(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
