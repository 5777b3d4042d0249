"""Windows or samples from a topic of a broker nearby, as JSON."""

import json
import secrets
import threading
from array import array
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import AfterValidator, Field

from client.config import host_name
from client.sources.base import Sink, SourceSettings, Window
from client.sources.frames import Framer, Silence
from schemas.link import Link, Message, PahoLink

_LARGEST: Final = 1 << 20
_POLL: Final = 0.5


def _filter(topic: str) -> str:
    """MQTT's rules: a broker closes the connection over any other."""
    *above, last = topic.split("/")
    wild = [level for level in above if "#" in level or ("+" in level and level != "+")]
    if wild or (len(last) > 1 and ("#" in last or "+" in last)) or "\0" in topic:
        raise ValueError("expected a topic or a filter: + is a level, # the last one")
    return topic


def _own_id() -> str:
    return f"flwr-edge-sensor-{secrets.token_hex(4)}"


class MqttTopicSettings(SourceSettings):
    """Settings of ``mqtt-topic``.

    Attributes
    ----------
    topic : str
        A filter: ``sensors/wrist``, ``sensors/+/window``.
    host, port
        The broker that sensors publish to; a local one.
    client_id : str
        One of its own each start where left out: a broker ends who has the same one.
    username, password : str, optional
    payload : "window" or "samples"
        Each message is a whole window, or some samples that follow on the last message's.
    step : int, optional
        Of samples: from a window's first to the next one's; a window's length where left out.
    gap : float, optional
        Of samples: seconds of silence that no window may span; where left out, any may lie in one.
    """

    topic: Annotated[str, AfterValidator(_filter)] = Field(min_length=1, max_length=1024)
    host: Annotated[str, AfterValidator(host_name)] = Field("localhost", min_length=1)
    port: int = Field(1883, ge=1, le=65_535)
    client_id: str = Field(default_factory=_own_id, min_length=1, max_length=64)
    username: str | None = None
    password: str | None = None
    payload: Literal["window", "samples"] = "window"
    step: int | None = Field(None, ge=1)
    gap: float | None = Field(None, gt=0)
    max_per_second: float | None = Field(50.0, gt=0)


class MqttTopicSource:
    """Reads messages ``{"values": [[…], …], "label": 3}``: rows of time, a value a channel.

    The label may be left out, and so may all but the list. Retained messages are passed over: they
    would come again with each connection. Samples of one topic do not follow on those of another.

    Parameters
    ----------
    settings : MqttTopicSettings
    link : callable(MqttTopicSettings) -> Link, optional
        Another carrier.
    """

    Settings: ClassVar[type[SourceSettings]] = MqttTopicSettings

    def __init__(
        self, settings: Any, link: Callable[[MqttTopicSettings], Link] | None = None
    ) -> None:
        self._settings: MqttTopicSettings = settings
        self._link = link or _paho
        step = settings.step or settings.time
        self._framer = Framer(settings.time, settings.channels, step)
        self._silence, self._topic = Silence(settings.gap), ""
        self._told = False  # that there is no connection

    def run(self, sink: Sink, stop: threading.Event) -> None:
        """Listen until told to stop; the link comes back by itself."""
        link = self._link(self._settings)
        link.on_message = lambda message: self._take(message, sink)
        link.on_connected = self._reached
        link.on_lost = lambda reason: self._lost(reason, sink)
        link.on_failed = lambda reason: self._unreached(reason, sink)
        link.connect()
        try:
            link.subscribe(self._settings.topic)
            while not stop.wait(_POLL):
                pass
        finally:
            link.close()

    def _reached(self) -> None:
        self._told = False

    def _lost(self, reason: str, sink: Sink) -> None:
        self._told = True
        sink.trouble("link", f"the sensors' broker was lost: {reason}")
        self._framer.reset()

    def _unreached(self, reason: str, sink: Sink) -> None:
        """Tell the first of many attempts."""
        if not self._told:
            self._told = True
            sink.trouble("link", f"the sensors' broker is not reached: {reason}")

    def _take(self, message: Message, sink: Sink) -> None:
        if message.retain:
            sink.trouble("retained", f"{message.topic}: passed over")
            return
        try:
            self._read(message, sink)
        except (ValueError, TypeError, RecursionError, OverflowError) as error:
            sink.trouble("message", f"{message.topic}: no {self._settings.payload}: {error}")
            self._framer.reset()

    def _read(self, message: Message, sink: Sink) -> None:
        rows, label = _rows(message.payload)
        if self._settings.payload == "samples":
            self._follow(message.topic, sink)
            for row in rows:
                window = self._framer.add(row, label)
                if window is not None:
                    sink.give(window)
            return
        widths = {len(row) for row in rows}
        if len(widths) != 1:
            raise ValueError(f"rows of {sorted(widths)} values; expected as many in each")
        values = array("f", (value for row in rows for value in row))
        sink.give(Window(values, (len(rows), widths.pop()), label))

    def _follow(self, topic: str, sink: Sink) -> None:
        """Break the run of samples where these do not follow on the last ones."""
        before, self._topic = self._topic, topic
        silent = self._silence.ended()
        if not (silent or topic != before) or not self._framer.reset():
            return
        if silent:
            sink.trouble("gap", f"nothing came for {silent:.0f} s; no window spans it")
        else:
            sink.trouble("topic", f"samples of {topic} after those of {before}: name one topic")


def _rows(payload: bytes) -> tuple[list[list[float]], int]:
    if len(payload) > _LARGEST:
        raise ValueError(f"{len(payload)} bytes; at most {_LARGEST} are read")
    said = json.loads(payload)
    if isinstance(said, list):
        said = {"values": said}
    if not isinstance(said, dict) or not {"values"} <= set(said) <= {"values", "label"}:
        raise ValueError('expected {"values": [[…], …], "label": …}')
    rows, label = said["values"], said.get("label", -1)
    label = -1 if label is None else label
    if type(label) is not int:
        raise ValueError(f"a label of {label!r}; expected a whole number")
    if not isinstance(rows, list) or not all(isinstance(row, list) for row in rows):
        raise ValueError("expected a list of rows, each a list of numbers")
    return rows, label


def _paho(settings: MqttTopicSettings) -> Link:
    return PahoLink(
        settings.host,
        settings.port,
        settings.client_id,
        username=settings.username,
        password=settings.password,
    )
