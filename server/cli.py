"""``flwr-fleet``: the operator's command; its commands are plugins, ``flwr_edge.fleet_command``."""

from importlib.metadata import entry_points

import typer

GROUP = "flwr_edge.fleet_command"


def build() -> typer.Typer:
    """Make the command line from the installed commands, in the order of their names."""
    app = typer.Typer(
        name="flwr-fleet",
        help="Run a fleet of devices that learn.\n\nExit codes: 0 done, 1 it failed, 2 something "
        "wrong in a file or on the command line, 130 interrupted.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    app.callback()(_root)
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        app.command(point.name)(point.load())
    return app


def _root() -> None:
    """Keep commands by name, also where there is one alone."""


def main() -> None:
    """Run ``flwr-fleet`` and exit."""
    build()()
