"""Carriers of the server: `MqttGrid`, Flower's Grid over a broker, and its durable `Ledger`."""

from server.transport.ledger import Ledger
from server.transport.mqtt_grid import MqttGrid

__all__ = ["Ledger", "MqttGrid"]
