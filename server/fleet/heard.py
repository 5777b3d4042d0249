"""Whether anybody hears who is online: else a list says what was heard last."""

import socket
from typing import Final

from sqlalchemy import Engine

from schemas.address import host_port
from schemas.fleet import FleetConfig
from server.fleet.alone import serving

_PATIENCE: Final = 1.0  # seconds, of a connection to the broker


def unheard(engine: Engine, config: FleetConfig) -> str:
    """Say why nobody hears now who comes and goes; "" where somebody does.

    Parameters
    ----------
    engine : Engine
        Of the fleet's database.
    config : FleetConfig
        Its broker is connected to, and left at once.
    """
    if serving(engine) is None:
        return "flwr-fleet serve does not run"
    where = (config.broker.host, config.broker.port)
    try:
        socket.create_connection(where, timeout=_PATIENCE).close()
    except OSError as error:
        return f"the broker {host_port(*where)} does not answer ({error.strerror or error})"
    return ""
