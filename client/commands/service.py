"""``flwr-edge install-service``: the daemon as a systemd service."""

import argparse
import sys
from pathlib import Path
from typing import Any

from client.commands.output import emit
from client.service import Service, install, plan
from schemas.base import ConfigError

_EPILOG = """\
examples:
  flwr-edge install-service --dry-run           what would be written and run
  sudo flwr-edge install-service                reads /etc/flwr-edge/config.toml
  sudo flwr-edge install-service --memory 400M --config /etc/flwr-edge/w.toml
  flwr-edge install-service --root /mnt/image   two files; then, for its boot,
    systemd-sysusers --root /mnt/image
    systemctl --root /mnt/image enable flwr-edge

Running it again brings the unit up to date and restarts the service.
"""


def register(nouns: Any) -> None:
    """Add the command."""
    default = Service()
    command = nouns.add_parser(
        "install-service",
        help="install the daemon as a systemd service",
        description="Write a systemd unit with a watchdog, a memory limit and hardening, make its\n"
        "system user, enable and start it.",
        epilog=_EPILOG,
    )
    command.add_argument("--dry-run", action="store_true", help="print it and change nothing")
    for name, kind, meaning in (
        ("config", Path, "the daemon's configuration"),
        ("program", Path, "the installed flwr-edge"),
        ("user", str, "the user it runs as"),
        ("memory", str, "most memory it may use"),
        ("watchdog", int, "seconds of silence after which it is restarted"),
    ):
        value = getattr(default, name)
        command.add_argument(
            f"--{name}", type=kind, default=value, help=f"{meaning}; default: %(default)s"
        )
    command.add_argument(
        "--root", type=Path, default=Path("/"), help="another system's root; default: /"
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print or install."""
    names = ("config", "program", "user", "memory", "watchdog")
    service = Service(**{name: getattr(arguments, name) for name in names})
    if arguments.dry_run:
        emit(plan(service, arguments.root), None)
        return
    if arguments.root == Path("/"):
        _check(service)
    for line in install(service, arguments.root):
        sys.stdout.write(f"{line}\n")


def _check(service: Service) -> None:
    """Refuse what could not start, before anything is written."""
    wrong = []
    if not service.program.is_file():
        wrong.append(f"--program {service.program}: no such file; name the installed flwr-edge")
    if not service.config.is_file():
        wrong.append(f"--config {service.config}: no such file; write it first")
    if wrong:
        raise ConfigError("install-service", wrong)
    from client.config import DaemonConfig

    DaemonConfig.load(service.config)
