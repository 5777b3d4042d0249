"""``flwr-fleet broker``: the fleet's Mosquitto."""

import shlex
from typing import Annotated

import typer

from server.fleet.commands.options import Fleet, FleetOption, say, write

app = typer.Typer(help="The broker: its configuration, and the lists that it goes by.")


@app.command()
def config(
    fleet: FleetOption = None,
    show: Annotated[
        bool, typer.Option("--show", help="Print mosquitto.conf; write nothing.")
    ] = False,
) -> None:
    """Write the broker's configuration: complete, hardened, and a reason beside each line.

    Mosquitto 2.0 or newer then takes TLS clients with a certificate of this fleet alone, each with
    the topics of its own name. Ports, addresses and limits come from fleet.toml, table broker.
    Start it with what is printed, as the account that runs `flwr-fleet serve`.

    Example: flwr-fleet broker config
    """
    from server.fleet.broker.control import make_control
    from server.fleet.broker.lists import write_lists
    from server.fleet.broker.settings import configuration
    from server.fleet.secret import write as write_file

    opened = Fleet(fleet)
    folder, text = opened.folder, configuration(opened.folder, opened.config)
    if show:
        write(text.rstrip())
        return
    make_control(folder)
    file = folder.broker / "mosquitto.conf"
    write_file(file, text.encode(), 0o640)
    write_lists(folder, opened.config)
    say(f"wrote {file} and {folder.broker / 'access.acl'}")
    write(shlex.join(["mosquitto", "-c", str(file)]))


@app.command()
def reload(fleet: FleetOption = None) -> None:
    """Write the access list from the registry, and have the broker read all lists again.

    `flwr-fleet serve`, and every command that throws a device out, do so by themselves.

    Example: flwr-fleet broker reload
    """
    from server.fleet.broker.control import Control
    from server.fleet.broker.lists import write_lists

    opened = Fleet(fleet)
    digest = write_lists(opened.folder, opened.config)
    seconds = Control(opened.folder, opened.config).reload(digest)
    say(f"the broker goes by list {digest[:12]}, {seconds:.2f} s after it was told")
