"""``flwr-edge run``: the daemon, in the foreground; systemd runs it so."""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from client.commands.control import add_socket
from schemas.base import ConfigError

_EPILOG = """\
examples:
  flwr-edge run --config /etc/flwr-edge/config.toml
  flwr-edge run --config pi.toml --check      say what is wrong with the file, and exit

SIGTERM or Ctrl-C stops it within two seconds; work under way starts afresh the next time.
"""


def register(nouns: Any) -> None:
    """Add the command."""
    command = nouns.add_parser(
        "run",
        help="run the device's daemon",
        description="Connect to the broker, take tasks, learn on this device's own windows, and\n"
        "answer. Logs to standard error.",
        epilog=_EPILOG,
    )
    command.add_argument("--config", type=Path, required=True, metavar="FILE", help="TOML")
    command.add_argument("--check", action="store_true", help="check the file and exit")
    command.add_argument("--verbose", action="store_true", help="log debugging lines too")
    add_socket(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Check the configuration, then run."""
    from client.config import DaemonConfig

    config = DaemonConfig.load(arguments.config)
    if missing := config.missing():
        raise ConfigError(str(arguments.config), missing)
    if arguments.check:
        print(f"{arguments.config}: good; device {config.device}")  # noqa: T201 (its answer)
        return
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if arguments.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    from client.start import run as start

    start(config, arguments.socket)
