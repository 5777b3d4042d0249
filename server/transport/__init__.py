"""Carriers of the server: `MqttGrid`, Flower's Grid over a broker, and its durable `Ledger`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from server.transport.ledger import Ledger
    from server.transport.mqtt_grid import MqttGrid

__all__ = ["Ledger", "MqttGrid"]
_WHERE: Final = {"Ledger": "ledger", "MqttGrid": "mqtt_grid"}


def __getattr__(name: str) -> Any:
    """Load the wire and Flower only for whom needs them: an operator's command needs the tables."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"server.transport.{_WHERE[name]}"), name)
