"""Sensors: windows as they come. ``SensorSource`` is the seam, ``Gatherer`` runs one."""

from client.sources.base import SensorSource, Sink, SourceSettings, Window
from client.sources.gather import Gatherer, source_class

__all__ = ["Gatherer", "SensorSource", "Sink", "SourceSettings", "Window", "source_class"]
