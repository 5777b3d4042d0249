"""``flwr-edge run``: the daemon, in the foreground (systemd runs it so), or one bundle's model."""

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from client.commands import predict
from client.commands.bundle import add_bundle, open_or_refuse
from client.commands.control import add_socket
from schemas.base import ConfigError

if TYPE_CHECKING:
    from client.config import DaemonConfig

_DESCRIPTION: Final = """\
With --config: the daemon. Connect to the broker, take tasks, learn on this device's own windows,
and answer. Logs to standard error.

With a BUNDLE: predict with a personal model, on the windows of a file or of a live sensor.
"""
_EPILOG: Final = """\
examples:
  flwr-edge run --config /etc/flwr-edge/config.toml
  flwr-edge run --config pi.toml --check    say what is wrong with the file

  flwr-edge run ann.flwb --input windows.npy
  flwr-edge run ann.flwb --key signing.pub --base shared.flwb \\
    --input windows.npy --format json
  flwr-edge run ann.flwb --source pipe --settings watch.toml --count 100

SIGTERM or Ctrl-C stops the daemon within two seconds; work under way starts afresh the next time.
A bundle with --source predicts each window as it comes, until Ctrl-C or --count; settings are the
sensor's own, such as: path = "/run/watch"
"""


def register(nouns: Any) -> None:
    """Add the command."""
    command = nouns.add_parser(
        "run",
        help="run the device's daemon, or a bundle on windows",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    daemon = command.add_argument_group("the daemon")
    daemon.add_argument("--config", type=Path, metavar="FILE", help="TOML")
    daemon.add_argument("--check", action="store_true", help="check the file and exit")
    daemon.add_argument("--verbose", action="store_true", help="log debugging lines too")
    add_socket(command)
    add_bundle(command, optional=True)
    predict.add_options(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Run what was named: a bundle, or the daemon."""
    if (arguments.bundle is None) == (arguments.config is None):
        raise ConfigError("run", ["expected a BUNDLE or --config FILE: one of them"])
    named = ["--check", "--verbose"] if arguments.bundle else _BUNDLE_OPTIONS
    values = {f"--{name}": value for name, value in vars(arguments).items()}
    if wrong := [name for name in named if values[name] not in (None, False)]:
        whose = "the daemon (--config)" if arguments.bundle else "a bundle"
        raise ConfigError("run", [f"{', '.join(wrong)}: only with {whose}"])
    if arguments.bundle:
        predict.run(arguments)
    else:
        _daemon(arguments)


_BUNDLE_OPTIONS: Final = (
    *("--input", "--source", "--settings", "--count", "--hz", "--key", "--base"),
)


def _daemon(arguments: argparse.Namespace) -> None:
    """Check the configuration, then run."""
    from client.config import DaemonConfig

    config = DaemonConfig.load(arguments.config)
    if missing := config.missing():
        raise ConfigError(str(arguments.config), missing)
    if arguments.check:
        if problems := _model_problems(config) + _certificate_problems(config):
            raise ConfigError(str(arguments.config), problems)
        print(f"{arguments.config}: good; device {config.device}")  # noqa: T201 (its answer)
        return
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if arguments.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    from client.start import run as start

    start(config, arguments.socket)


def _certificate_problems(config: "DaemonConfig") -> list[str]:
    """That the certificate is over: no reason not to start, since the clock may be wrong."""
    from schemas.link_tls import expired

    tls = config.broker.tls
    said = expired(None if tls is None else tls.certificate)
    return [f"broker.tls.certificate: {said}"] if said else []


def _model_problems(config: "DaemonConfig") -> list[str]:
    """Why the bundle that it names would not predict here, opened whole; a line each.

    The process that learns opens it when it predicts.
    """
    if config.model is None:
        return []
    from client.bundle.checks import not_runnable

    manifest = open_or_refuse(config.model.bundle, config.fleet_key, config.model.base).manifest
    problems = [f"model.bundle: {problem}" for problem in not_runnable(manifest)]
    taken = {"time": manifest.input.time, "channels": manifest.input.channels}
    given = config.windows.settings if config.windows.source else taken
    return problems + [
        f"windows.settings.{name} = {given[name]}; the bundle takes windows of {size}"
        for name, size in taken.items()
        if given.get(name, size) != size
    ]
