"""``flwr-edge enroll``: join a fleet."""

import argparse
import re
import shlex
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from schemas.base import ConfigError

_DESCRIPTION: Final = """\
Join a fleet. A key is made here and never leaves this device; the fleet's server gets a request for
a certificate, and the claim that an operator made (flwr-fleet claim create). Then the daemon's
configuration is written, and `flwr-edge run --config FILE` starts.

The claim names the fleet's authority: a server that is another gets nothing.
"""
_EPILOG: Final = """\
examples:
  flwr-edge enroll --server fleet.example:8443 --claim CLAIM --name watch-7
  flwr-edge enroll 'https://fleet.example:8443/enrol#CLAIM'   of a QR code
  flwr-edge enroll --server fleet.example --claim-file claim.txt \\
    --config pi.toml --state state

Run again after an interruption, it goes on with the same request. The fingerprint that it prints is
the one that flwr-fleet device show prints: compare them before you approve.
"""


def register(nouns: Any) -> None:
    """Add the command."""
    command = nouns.add_parser(
        "enroll",
        help="join a fleet: key, certificate, configuration",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    command.add_argument("url", nargs="?", metavar="URL", help="what the operator's QR code holds")
    command.add_argument("--server", metavar="HOST[:PORT]", help="the fleet's server; port 8443")
    claim = command.add_mutually_exclusive_group()
    claim.add_argument("--claim", help="as the operator got it")
    claim.add_argument("--claim-file", type=Path, metavar="FILE", help="its first line; - is stdin")
    command.add_argument("--name", help="this device's name; left out: its host name")
    command.add_argument(
        "--config",
        type=Path,
        default=Path("/etc/flwr-edge/config.toml"),
        metavar="FILE",
        help="the daemon's configuration, written or updated (default %(default)s)",
    )
    command.add_argument(
        "--state", type=Path, metavar="FOLDER", help="of the daemon; default /var/lib/flwr-edge"
    )
    command.add_argument(
        "--windows", type=Path, metavar="FOLDER", help="of the person's windows, in a new FILE"
    )
    command.add_argument(
        "--wait",
        type=float,
        default=float("inf"),
        metavar="SECONDS",
        help="for an operator's approval; left out: until it comes",
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Enroll, and write the configuration."""
    if find_spec("cryptography") is None:
        raise ConfigError(
            "enroll", ["needs the package cryptography: pip install 'flwr-edge[signed]'"]
        )
    from client.config import DEVICE
    from client.enrolment import enrol
    from client.identity import Identity

    server, claim = _claim(arguments)
    name = arguments.name or _host_name()
    if not re.fullmatch(DEVICE, name):
        wanted = "expected 1 to 63 of a-z, 0-9 and -, not beginning with -"
        raise ConfigError("--name", [f"{name!r}: {wanted}"])
    state = (arguments.state or _state(arguments.config)).absolute()
    identity = Identity(state / "identity")
    reply = enrol(identity, server, claim, name, _say, arguments.wait)
    kept = _write(arguments, identity, state, reply)
    if kept:
        _say(f"what {arguments.config} was before is in {kept}")
    next_ = shlex.join(["flwr-edge", "run", "--config", str(arguments.config)])
    _say(f"enrolled as {reply.device}; next: {next_}")


def _claim(arguments: argparse.Namespace) -> tuple[str, Any]:
    from client.enrolment import address
    from schemas.enrolment import ClaimText, parse_url

    text, server = arguments.claim, arguments.server
    if arguments.claim_file is not None:
        text = _first_line(arguments.claim_file)
    if (arguments.url is None) == (text is None) or (server is None) == (text is not None):
        raise ConfigError("enroll", ["expected URL, or --server and a claim: one of them"])
    try:
        if arguments.url is not None:
            server, text = parse_url(arguments.url)
        address(server)
        return server, ClaimText.parse(text)
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError("enroll", [str(error)]) from None


def _first_line(path: Path) -> str:
    from schemas.text import first_line

    if str(path) != "-":
        return first_line(path.read_bytes(), path).strip()
    try:
        return sys.stdin.readline().removeprefix("\ufeff").strip()
    except UnicodeDecodeError:
        raise ConfigError("standard input", ["expected UTF-8"]) from None


def _state(config: Path) -> Path:
    """The folder that the configuration names already, or the usual one."""
    from client.config import STATE, DaemonConfig

    return DaemonConfig.load(config).state if config.exists() else STATE


def _write(arguments: argparse.Namespace, identity: Any, state: Path, reply: Any) -> str | None:
    from client.config_file import updated
    from client.files import make_folder, owner_near

    tls = {"ca": identity.ca, "certificate": identity.certificate, "key": identity.key}
    changes = {
        "device": reply.device,
        "state": str(state),
        "fleet_key": reply.fleet_key,
        "broker": {
            "host": reply.broker.host,
            "port": reply.broker.port,
            "tls": {key: str(path) for key, path in tls.items()},
        },
        "rotation": {"identity": str(identity.root)},
    }
    windows = (arguments.windows or state / "person").absolute()
    if arguments.windows:
        changes["windows"] = {"folder": str(windows)}
    if not arguments.config.exists():
        make_folder(windows, owner_near(windows))
    return updated(arguments.config, changes, {"windows": {"folder": str(windows)}})


def _host_name() -> str:
    return socket.gethostname().partition(".")[0].lower()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201
