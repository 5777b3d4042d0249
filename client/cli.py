"""``flwr-edge``: what runs on a device. Noun–verb, from the standard library alone."""

import argparse
import sqlite3
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from client.commands import bench, bundle, control, daemon, enroll, info, service, status
from client.help import Formatter
from client.ring_file import RingError
from client.store_file import why
from schemas import streams
from schemas.base import ConfigError
from schemas.os_errors import told
from schemas.release import release

# A command is a module of client.commands with ``register(subparsers)``: it adds its parser and
# sets ``run`` to a function of the parsed arguments.
COMMANDS: Final = (enroll, daemon, bundle, status, control, service, info, bench)

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

_EPILOG = """\
exit codes: 0 done, 1 it failed, 2 something wrong on the command line or in a file,
130 interrupted. Errors are one line each, on standard error.

examples:
  flwr-edge enroll --server fleet.example:8443 --claim CLAIM
  flwr-edge run --config /etc/flwr-edge/config.toml
  flwr-edge run ann.flwb --input windows.npy
  flwr-edge verify ann.flwb --key signing.pub
  flwr-edge status
  flwr-edge info
  flwr-edge bench kernels --quick
"""


class Version(argparse.Action):
    """Say which release this is, and end."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        """Looked up where it is asked for alone."""
        print(f"{parser.prog} {release()}")  # noqa: T201
        parser.exit(DONE)


class Parser(argparse.ArgumentParser):
    """One line an error; examples keep their lines."""

    def __init__(self, **settings: Any) -> None:
        settings.setdefault("formatter_class", Formatter)
        super().__init__(**settings, allow_abbrev=False)

    def parse_known_args(  # type: ignore[override] # of its overloads, what parse_args returns
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Refuse what is not known where it is met: the root's help knows no command's options."""
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        """Say what is wrong on one line, and where help is; exit with 2."""
        self.exit(BAD_INPUT, f"{self.prog}: {message} (see {self.prog} --help)\n")


def parser() -> argparse.ArgumentParser:
    """Make the parser with all commands."""
    root = Parser(
        prog="flwr-edge",
        description="What runs on a device: the daemon that learns; personal models as bundles.",
        epilog=_EPILOG,
    )
    root.add_argument("--version", action=Version, nargs=0, help="say which release this is")
    nouns = root.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.register(nouns)
    return root


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``flwr-edge`` and exit."""
    streams.prepare()
    parsed = parser().parse_args(arguments)
    sys.exit(guarded(lambda: parsed.run(parsed)))


def guarded(command: Callable[[], None]) -> int:
    """Run a command; turn what can go wrong into a line on standard error and an exit code."""
    try:
        command()
    except ConfigError as error:
        return _fail(str(error), BAD_INPUT)
    except OSError as error:
        return _fail(told(error), FAILED)
    except (RuntimeError, RingError) as error:
        return _fail(str(error), FAILED)
    except sqlite3.Error as error:
        return _fail(f"the store: {why(error)}", FAILED)
    except MemoryError:
        return _fail("out of memory", FAILED)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    return DONE


def _fail(message: str, code: int) -> int:
    for line in message.splitlines():
        print(f"flwr-edge: {line}", file=sys.stderr)  # noqa: T201
    return code


if __name__ == "__main__":
    main()
