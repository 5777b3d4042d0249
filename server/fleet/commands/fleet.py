"""``flwr-fleet init`` and ``serve``."""

import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from server.fleet.commands.options import Fleet, FleetOption, next_of, say, say_local


def init(
    folder: Annotated[Path, typer.Argument(help="An empty folder, or one to complete.")] = Path(
        "fleet"
    ),
    name: Annotated[str, typer.Option(help="The fleet's name; it stands in its CA.")] = "fleet",
    host: Annotated[
        str, typer.Option(help="The name or address at which devices reach this server.")
    ] = "localhost",
    port: Annotated[int, typer.Option(help="Of the enrollment server.")] = 8443,
    broker_host: Annotated[
        str | None, typer.Option(help="Where devices reach the broker; left out: --host.")
    ] = None,
    broker_port: Annotated[
        int, typer.Option(help="Of the broker; it has the next one too, on loopback.")
    ] = 8883,
    database: Annotated[
        str,
        typer.Option(help="A file in the folder, or postgresql+psycopg://USER@HOST/NAME."),
    ] = "registry.sqlite",
    passphrase: Annotated[
        bool,
        typer.Option(
            "--passphrase",
            help="Encrypt the keys with a passphrase (FLWR_FLEET_PASSPHRASE, or asked for) "
            "in place of a key file.",
        ),
    ] = False,
) -> None:
    """Make a fleet: its folder, database, CA, signing key and certificates.

    Run again, it completes what is missing, brings the database up to date, and changes nothing
    that is there; fleet.toml is yours to edit, and serve takes a change when it is started again.

    Example: flwr-fleet init /srv/fleet --name wearables --host fleet.example
    """
    from pydantic import ValidationError

    from schemas.base import ConfigError, describe
    from schemas.fleet import FleetConfig, FleetFolder
    from server.fleet.create import create

    values = {
        "name": name,
        "database": database,
        "server": _place(host, port),
        "broker": _place(broker_host or host, broker_port) | {"control": broker_port + 1},
        "secrets": {"kind": "passphrase" if passphrase else "file"},
    }
    try:
        config = FleetConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError("init", describe(error.errors())) from None
    made = FleetFolder(folder)
    create(made, config, say)
    say_local(made.config())
    say(next_of(folder))


def _place(host: str, port: int) -> dict[str, Any]:
    """A service as ``fleet.toml`` has it; an address of IPv6 is reached where IPv6 is bound."""
    return {"host": host, "port": port} | ({"listen": "::"} if ":" in host else {})


def serve(
    fleet: FleetOption = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65_535, help="Another port than fleet.toml's; 0 is any that is free."
        ),
    ] = None,
) -> None:
    """Serve enrollment and rotation over HTTPS, drive roll-outs, and keep lists fresh.

    Until SIGTERM or Ctrl-C. The revocation list is renewed at half of its life, and the server's
    and the broker's certificates at two thirds of theirs: this must run, or be run now and then.

    Example: flwr-fleet serve --fleet /srv/fleet
    """
    from server.database import migrate, open_engine
    from server.fleet.alone import Alone
    from server.fleet.serve import Server

    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    opened = Fleet(fleet)
    engine = open_engine(opened.folder.database(opened.config))
    alone = Alone(opened.folder.root, engine)  # first: a server of a release before may use it
    try:
        migrate(engine)
        engine.dispose()
        with opened.keeper() as keeper:
            Server(opened.folder, opened.config, keeper, port, alone).run()
    finally:
        alone.release()
