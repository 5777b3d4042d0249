"""Whether devices of other machines find the fleet under the names that it gives them."""

from typing import Final

from schemas.address import loopback
from schemas.fleet import FleetConfig

ELSEWHERE: Final = (
    "for devices elsewhere set it in fleet.toml, run flwr-fleet init again, and start serve and "
    "the broker anew"
)


def local(config: FleetConfig) -> str:
    """What this machine alone reaches, of the hosts that devices are told; "" where it is none."""
    hosts = {"server.host": config.server.host, "broker.host": config.broker.host}
    own = [key for key, host in hosts.items() if loopback(host)]
    return f"{' and '.join(own)}: reached from this machine alone" if own else ""
