"""What server and device ask of a link to a broker, whoever carries it."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

MAX_WAITING: Final = 64 << 20  # bytes taken and not yet with the broker
_log = logging.getLogger("flwr_edge.link")


class LinkDown(ConnectionError):  # noqa: N818 - a state, like httpx's Timeout
    """No connection: nothing was taken; publish again when ``on_connected`` comes."""


@dataclass(frozen=True)
class Message:
    """A published message.

    Attributes
    ----------
    retain
        Of a received one: it lay at the broker when the filter was subscribed.
    expiry
        Seconds that it has left; ``None`` for ever.
    """

    topic: str
    payload: bytes
    content_type: str = ""
    retain: bool = False
    expiry: float | None = None


@dataclass(frozen=True)
class TlsFiles:
    """Paths of PEM files."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None


class Link(Protocol):
    """A connection that comes back by itself.

    The callbacks come one at a time, on one thread; set them before ``connect``. They may
    publish, subscribe and close; what they raise is logged.

    Attributes
    ----------
    on_message : callable(Message)
    on_connected : callable()
        After every connection: the broker keeps no session of the one before. Filters are
        subscribed again by then; a retained state is not published again by itself.
    on_lost : callable(str)
        With the reason, once a lost connection.
    on_failed : callable(str)
        With the reason, after each attempt that came to no connection.
    """

    on_message: Callable[[Message], None]
    on_connected: Callable[[], None]
    on_lost: Callable[[str], None]
    on_failed: Callable[[str], None]

    @property
    def connected(self) -> bool:
        """Whether a message may be published now."""
        ...

    def connect(self) -> None:
        """Begin; returns at once. ``on_connected`` says when there is a connection."""
        ...

    def wait_connected(self, timeout: float) -> bool:
        """Wait for a connection; whether there is one. Not for callbacks."""
        ...

    def close(self) -> None:
        """Send what was taken, say goodbye (no will is sent) and end."""
        ...

    def subscribe(self, filter: str) -> None:  # noqa: A002 - MQTT's word
        """Subscribe now, or as soon as there is a connection, and after each of them."""
        ...

    def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        expiry: float | None = None,
        content_type: str = "",
    ) -> None:
        """Hand a message over; with QoS 1 it arrives at least once while this process lives.

        Raises
        ------
        LinkDown
            Where there is no connection, or ``MAX_WAITING`` bytes are waiting to be sent.
        """
        ...


def ignore(*_: Any) -> None:
    """The callback of a link that was given none."""


def call(callback: Callable[..., None], *arguments: object) -> None:
    """Call back; a link outlives what its owner raises."""
    try:
        callback(*arguments)
    except Exception:  # noqa: BLE001 - whatever it is, the link goes on
        _log.exception("a callback of the link raised")
