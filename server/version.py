"""``--version`` of the commands that Typer makes."""

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from schemas.release import release


def callback(command: str) -> Callable[[bool], None]:
    """Make what an app's callback is to be: it takes this option."""

    def say(asked: bool) -> None:  # noqa: FBT001 - typer hands it over
        if asked:
            sys.stdout.write(f"{command} {release()}\n")
            raise typer.Exit

    def root(
        _: Annotated[  # noqa: FBT002 - a flag of the command line
            bool,
            typer.Option(
                "--version", callback=say, is_eager=True, help="Say which release this is."
            ),
        ] = False,
    ) -> None:
        pass

    return root
