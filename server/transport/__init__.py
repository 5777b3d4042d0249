"""Carriers of the server: `MqttGrid`, Flower's Grid over a broker, and its durable `Ledger`."""

from typing import TYPE_CHECKING, Any

from server.transport.ledger import Ledger

if TYPE_CHECKING:
    from server.transport.mqtt_grid import MqttGrid

__all__ = ["Ledger", "MqttGrid"]


def __getattr__(name: str) -> Any:
    """Load Flower only for whom carries its messages: an operator's command needs the tables."""
    if name != "MqttGrid":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from server.transport.mqtt_grid import MqttGrid

    return MqttGrid
