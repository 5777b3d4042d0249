"""``flwr-fleet``: the operator's command; its commands are plugins, ``flwr_edge.fleet_command``.

An entry point's name is a command's (``demo``), a noun's (``device``), or that of one verb more
below a noun (``device.quarantine``); its object is a function, or a ``typer.Typer`` for a noun.
Only what the command line names is loaded: a command starts no slower for the others.
"""

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import click
import typer
from typer.core import TyperGroup

from schemas import streams
from schemas.base import ConfigError
from schemas.os_errors import told
from schemas.plugins import entry_points
from server import garbage, version
from server.fleet.errors import FoundError, NotConfirmedError, NotFoundError, Refusal
from server.help import flowing, teaching

GROUP: Final = "flwr_edge.fleet_command"
DONE, FAILED, BAD_INPUT, NOT_FOUND, NOT_CONFIRMED, FOUND, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
_HELP: Final = """Run a fleet of devices that learn.

From nothing: flwr-fleet init, flwr-fleet broker config, flwr-fleet serve, flwr-fleet claim create;
then flwr-edge enroll on each device.

Exit codes: 0 done, 1 it failed or was refused, 2 something wrong in a file or on the command line,
3 there is no such device, claim, bundle or roll-out, 4 not confirmed (nothing was changed), 5 a
check found faults, 130 interrupted.
"""


class Plugins(TyperGroup):
    """A group whose commands are entry points, loaded when asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all that are installed."""
        return sorted({point.name.partition(".")[0] for point in entry_points(GROUP)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Load one."""
        return _load(cmd_name)


def build() -> typer.Typer:
    """Make the command line."""
    app = typer.Typer(
        name="flwr-fleet",
        cls=Plugins,
        help=flowing(_HELP),
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    app.callback()(version.callback("flwr-fleet"))
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``flwr-fleet`` and exit."""
    streams.prepare()
    garbage.seldom()
    words = sys.argv[1:] if arguments is None else list(arguments)
    sys.exit(guarded(lambda: _run(words)))


def guarded(command: Callable[[], Any]) -> int:
    """Run a command; turn what can go wrong into a line on standard error and an exit code."""
    try:
        command()
    except ConfigError as error:
        return _fail(error, BAD_INPUT)
    except NotFoundError as error:
        return _fail(error, NOT_FOUND)
    except NotConfirmedError as error:
        return _fail(error, NOT_CONFIRMED)
    except FoundError as error:
        return _fail(error, FOUND)
    except OSError as error:
        return _fail(told(error), FAILED)
    except (RuntimeError, Refusal) as error:
        return _fail(error, FAILED)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except Exception as error:
        if not type(error).__module__.startswith("sqlalchemy."):  # imported where it is used
            raise
        return _fail(f"the database: {_first_line(error)}", FAILED)
    return DONE


def _run(words: list[str]) -> None:
    """Run a command line.

    Raises
    ------
    ConfigError
        Where a word of it is no text: no database and no file of ours can hold it.
    """
    for number, word in enumerate(words, 1):
        try:
            word.encode()
        except UnicodeEncodeError:
            problem = f"{os.fsencode(word)!r}: expected UTF-8"
            raise ConfigError(f"argument {number}", [problem]) from None
    build()(words)


def _first_line(error: Exception) -> str:
    """What the driver said, where it was the driver: SQLAlchemy's own words go before that."""
    cause = getattr(error, "orig", None) or error
    lines = str(cause).splitlines()
    return lines[0] if lines else type(cause).__name__


def _load(name: str) -> click.Command | None:
    points = {point.name: point for point in entry_points(GROUP)}
    verbs = sorted(key for key in points if key.startswith(f"{name}."))
    if name not in points and not verbs:
        return None
    loaded = points[name].load() if name in points else typer.Typer(no_args_is_help=True)
    if not isinstance(loaded, typer.Typer):
        alone = typer.Typer(add_completion=False)
        alone.command(name)(loaded)
        return teaching(typer.main.get_command(alone))
    noun = typer.Typer(no_args_is_help=True, add_completion=False)  # the command's own is enough
    noun.callback(help=loaded.info.help)(_root)
    noun.registered_commands = list(loaded.registered_commands)
    for verb in verbs:
        noun.command(verb.partition(".")[2])(points[verb].load())
    command = typer.main.get_command(noun)
    command.name = name
    return teaching(command)


def _root() -> None:
    """Keep commands by name, also where there is one alone."""


def _fail(error: object, code: int) -> int:
    for line in str(error).splitlines():
        sys.stderr.write(f"flwr-fleet: {line}\n")
    return code
