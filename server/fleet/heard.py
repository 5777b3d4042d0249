"""Whether anybody hears who is online: else a list says what was heard last."""

import socket
from typing import Any, Final, NamedTuple

from sqlalchemy import Engine

from schemas.address import host_port
from schemas.fleet import FleetConfig, FleetFolder
from server.fleet import alone, hearing
from server.fleet.listing import when

_PATIENCE: Final = 1.0  # seconds, of a connection to the broker


class Unheard(NamedTuple):
    """Why nobody hears who comes and goes.

    Attributes
    ----------
    why : str
    since : float or None
        Unix time; None where it is not known.
    deaf : bool
        Whether ``serve`` runs and the broker answers, and yet they have no connection.
    """

    why: str
    since: float | None
    deaf: bool = False

    def __str__(self) -> str:
        """For people."""
        return self.why + (f", since {when(self.since)}" if self.since is not None else "")


def unheard(engine: Engine, folder: FleetFolder, config: FleetConfig) -> Unheard | None:
    """Why nobody hears now who comes and goes; None where somebody does.

    Parameters
    ----------
    engine : Engine
        Of the fleet's database.
    folder : FleetFolder
        Where ``serve`` notes how its connection stands, if it is this folder's.
    config : FleetConfig
        Its broker is connected to, and left at once.
    """
    said, server = hearing.read(folder.hearing), alone.serving(engine)
    if server is None:
        return Unheard("flwr-fleet serve does not run", said.until if said is not None else None)
    deaf = _deaf(said, server)
    where = (config.broker.host, config.broker.port)
    try:
        socket.create_connection(where, timeout=_PATIENCE).close()
    except OSError as error:
        why = f"the broker {host_port(*where)} does not answer ({error.strerror or error})"
        return Unheard(why, deaf.since if deaf is not None else None)
    return deaf


def cut_off(engine: Engine, folder: FleetFolder) -> Unheard | None:
    """Likewise by what ``serve`` noted alone; None too where nobody serves, or it noted nothing."""
    server = alone.serving(engine)
    return None if server is None else _deaf(hearing.read(folder.hearing), server)


def fields(found: Unheard | None) -> dict[str, Any]:
    """For programs, beside ``online``."""
    if found is None:
        return {"unheard": None, "unheard_since": None}
    return {"unheard": found.why, "unheard_since": when(found.since)}


def _deaf(said: hearing.Hearing | None, server: str) -> Unheard | None:
    if said is None or said.connected or said.server != server:
        return None
    why = f"flwr-fleet serve has no connection to the broker ({said.why})"
    return Unheard(why, said.since, deaf=True)
