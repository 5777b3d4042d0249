"""The link to a broker, and Eclipse Paho that gives it; its twin is ``schemas/memory_link.py``."""

import logging
import math
import random
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from schemas.address import host_port
from schemas.distrust import distrusted
from schemas.link_base import (
    MAX_WAITING,
    Link,
    LinkDown,
    Message,
    TlsFiles,
    call,
    ignore,
)
from schemas.link_tls import context_of, expired, reload

__all__ = ["MAX_PACKET", "MAX_WAITING", "Link", "LinkDown", "Message", "PahoLink", "TlsFiles"]

MAX_PACKET: Final = 1 << 20  # what the broker may send at once
_FLUSH: Final = 2.0  # seconds that a goodbye waits for what was taken
_DIALLING: Final = 0.5  # seconds that a close waits for an attempt to connect
_TAKEN_OVER: Final = 0x8E  # MQTT 5's reason code
_GONE: Final = "closed without a word: the broker ended, or another client of this id took over"
_STABLE: Final = 10.0  # seconds after which a connection counts as good
_log = logging.getLogger("flwr_edge.link")


@dataclass(frozen=True)
class _Outgoing:
    message: Message
    qos: int


class PahoLink:
    """The link over Eclipse Paho, MQTT 5; ``Link`` says what its methods do.

    One thread of its own turns the loop, through Paho's interface for foreign loops: Paho's own
    thread cannot jitter its back-off.

    Parameters
    ----------
    host, port
    client_id
    will : Message, optional
        Published by the broker where this side is lost without a goodbye.
    tls : TlsFiles, optional
    username : str, optional
    password : str or callable() -> str, optional
        A callable is asked before each attempt to connect.
    keepalive : int
        Seconds.
    backoff : tuple[float, float]
        Seconds before the first attempt to come back, and the most; each is scattered by half.
    """

    def __init__(
        self,
        host: str,
        port: int,
        client_id: str,
        *,
        will: Message | None = None,
        tls: TlsFiles | None = None,
        username: str | None = None,
        password: str | Callable[[], str] | None = None,
        keepalive: int = 30,
        backoff: tuple[float, float] = (0.5, 60.0),
    ) -> None:
        self.on_message: Callable[[Message], None] = ignore
        self.on_connected: Callable[[], None] = ignore
        self.on_lost: Callable[[str], None] = ignore
        self.on_failed: Callable[[str], None] = ignore
        self._address, self._keepalive = (host, port), keepalive
        self._limits = _properties(PacketTypes.CONNECT, MaximumPacketSize=MAX_PACKET)
        self._backoff = backoff
        self._tls, self._context = tls, None if tls is None else context_of(tls)
        self._renew = threading.Event()
        self._username, self._password = username, password
        self._client = self._make_client(client_id, will)
        self._filters: dict[str, None] = {}
        self._new_filters: deque[str] = deque()
        self._outbox: deque[_Outgoing] = deque()
        self._flying: dict[int, _Outgoing] = {}
        self._waiting = 0
        self._lock = threading.Lock()
        self._up, self._closing = threading.Event(), threading.Event()
        self._reason, self._came = "", math.inf
        self._thread: threading.Thread | None = None
        self._bell, self._ringer = socket.socketpair()
        self._bell.setblocking(False)
        self._ringer.setblocking(False)

    @property
    def connected(self) -> bool:
        """Whether a message may be published now."""
        return self._up.is_set() and not self._closing.is_set()

    def connect(self) -> None:
        """Begin; returns at once."""
        if self._closing.is_set():
            raise LinkDown("this link was closed; make another")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="link", daemon=True)
            self._thread.start()

    def wait_connected(self, timeout: float) -> bool:
        """Wait for a connection; whether there is one."""
        return self._up.wait(timeout) and self.connected

    def renew(self) -> None:
        """Connect again, with what the TLS files hold now; nothing that was taken is lost."""
        self._renew.set()
        self._ring()

    def close(self) -> None:
        """Send what was taken, say goodbye and end."""
        self._closing.set()
        self._ring()
        up, thread = self._up.is_set(), self._thread
        if not up and self._context is not None:
            self._context.interrupt()
        if thread is None:
            self._close_bell()
        elif thread is not threading.current_thread():
            # With no connection there is nothing to be sent, and no goodbye: who is dialled may
            # never answer, and the thread ends by itself once the attempt does.
            thread.join(_FLUSH + 5 if up else _DIALLING)

    def subscribe(self, filter: str) -> None:  # noqa: A002 - MQTT's word
        """Subscribe now, or as soon as there is a connection, and after each of them."""
        with self._lock:
            self._filters[filter] = None
            self._new_filters.append(filter)
        self._ring()

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
        """Hand a message over."""
        if not self.connected:
            raise LinkDown(f"no connection to {host_port(*self._address)}")
        message = Message(topic, payload, content_type, retain, expiry)
        with self._lock:
            if self._waiting + len(payload) > MAX_WAITING:
                raise LinkDown(f"{self._waiting} bytes are waiting to be sent; try again later")
            self._waiting += len(payload)
            self._outbox.append(_Outgoing(message, qos))
        self._ring()

    def _make_client(self, client_id: str, will: Message | None) -> Client:
        client = Client(CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv5)
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_message, client.on_publish = self._on_message, self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_socket_open = _send_at_once
        if will is not None:
            described = _described(PacketTypes.WILLMESSAGE, will)
            client.will_set(will.topic, will.payload, 1, will.retain, described)
        if self._context is not None:
            client.tls_set_context(self._context)
        return client

    # What follows runs on the link's thread.

    def _run(self) -> None:
        wait = self._backoff[0]
        while not self._closing.is_set():
            self._one_connection()
            if time.monotonic() - self._came > _STABLE:  # not how long it was dialled for
                wait = self._backoff[0]
            self._closing.wait(wait * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
            wait = min(2 * wait, self._backoff[1])
        self._close_bell()

    def _one_connection(self) -> None:
        self._reason, self._came = "", math.inf
        try:
            self._renew.clear()
            if self._context is not None and self._tls is not None:
                reload(self._context, self._tls)
            if self._username is not None:
                password = self._password
                self._client.username_pw_set(
                    self._username, password() if callable(password) else password
                )
            self._client.connect(
                *self._address, self._keepalive, clean_start=True, properties=self._limits
            )
            while self._client.socket() is not None and not self._ending():
                self._turn(1.0)
            self._say_goodbye()
        except ssl.SSLCertVerificationError as error:
            own = expired(self._tls.certificate) if self._tls is not None else ""
            self._reason = "; ".join(filter(None, (distrusted(error), own)))
        except OSError as error:
            self._reason = str(error)
        except Exception as error:  # noqa: BLE001 - whatever the broker sent, the link comes back
            _log.exception("%s:%d", *self._address)
            self._reason = f"{type(error).__name__}: {error}"
        self._lost()

    def _ending(self) -> bool:
        return self._closing.is_set() or self._renew.is_set()

    def _turn(self, timeout: float) -> None:
        """Move what can be moved; wait where nothing can."""
        self._hand_over()
        connection: Any = self._client.socket()
        if connection is None:
            return
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        writes = select.POLLOUT if self._client.want_write() else 0
        poll.register(connection, select.POLLIN | writes)
        pending = getattr(connection, "pending", int)()
        events = dict(poll.poll(0 if pending else timeout * 1000))
        if self._bell.fileno() in events:
            self._bell.recv(4096)
        event = events.get(connection.fileno(), 0)
        if pending or event & ~select.POLLOUT:
            self._client.loop_read()
        if event & select.POLLOUT:
            self._client.loop_write()
        self._client.loop_misc()

    def _hand_over(self) -> None:
        """Give Paho what was taken."""
        while self._up.is_set() and self._new_filters:
            self._subscribe(self._new_filters.popleft())
        while self._up.is_set() and self._outbox and self._client.socket() is not None:
            outgoing = self._outbox.popleft()
            message = outgoing.message
            described = _described(PacketTypes.PUBLISH, message)
            info = self._client.publish(
                message.topic, message.payload, outgoing.qos, message.retain, described
            )
            if not info.rc and info.is_published():  # what failed with QoS 1, Paho sends again
                self._settle(outgoing)
            else:
                self._flying[info.mid] = outgoing

    def _settle(self, outgoing: _Outgoing) -> None:
        with self._lock:
            self._waiting -= len(outgoing.message.payload)

    def _say_goodbye(self) -> None:
        end = time.monotonic() + _FLUSH
        while self._client.socket() is not None and time.monotonic() < end:
            if not self._up.is_set() or not (self._outbox or self._flying):
                break
            self._turn(0.05)
        if self._client.socket() is not None:
            self._client.disconnect()
        while self._client.socket() is not None and time.monotonic() < end + 1:
            self._turn(0.05)

    def _lost(self) -> None:
        """Forget what QoS 0 does not keep; Paho sends the rest again."""
        was_up = self._up.is_set()
        self._up.clear()
        for mid in [mid for mid, outgoing in self._flying.items() if outgoing.qos == 0]:
            self._settle(self._flying.pop(mid))
        for _ in range(len(self._outbox)):
            outgoing = self._outbox.popleft()
            if outgoing.qos == 0:
                self._settle(outgoing)
            else:
                self._outbox.append(outgoing)
        if self._closing.is_set():
            return
        reason = self._reason
        if reason in ("", "Unspecified error"):  # all that Paho knows
            reason = _GONE if was_up else f"closed before the broker greeted; {self._hint()}"
        _log.warning("%s:%d: %s", *self._address, reason)
        call(self.on_lost if was_up else self.on_failed, reason)

    def _hint(self) -> str:
        if self._tls is None:
            return "does it speak TLS on this port, or refuse this side's address?"
        over = expired(self._tls.certificate)
        return over or "it may want a client certificate that it trusts"

    def _subscribe(self, *filters: str) -> None:
        if filters:
            self._client.subscribe([(each, SubscribeOptions(qos=1)) for each in filters])

    def _close_bell(self) -> None:
        self._bell.close()
        self._ringer.close()

    def _ring(self) -> None:
        try:
            self._ringer.send(b"!")
        except OSError:  # full: it rings already; closed: nobody listens
            return

    def _on_connect(self, _: Client, __: Any, ___: Any, code: Any, ____: Any) -> None:
        if code.is_failure:
            self._reason = f"the broker refused: {code}"
            return
        with self._lock:
            self._new_filters.clear()
            filters = tuple(self._filters)
        self._subscribe(*filters)
        self._came = time.monotonic()
        self._up.set()
        call(self.on_connected)

    def _on_disconnect(self, _: Client, __: Any, ___: Any, code: Any, ____: Any) -> None:
        taken = code.value == _TAKEN_OVER
        said = "taken over by another client of this id" if taken else str(code)
        self._reason = self._reason or said

    def _on_message(self, _: Client, __: Any, received: MQTTMessage) -> None:
        call(self.on_message, _message(received))

    def _on_publish(self, _: Client, __: Any, mid: int, ___: Any, ____: Any) -> None:
        outgoing = self._flying.pop(mid, None)
        if outgoing is not None:
            self._settle(outgoing)

    def _on_subscribe(self, _: Client, __: Any, ___: int, codes: list[Any], ____: Any) -> None:
        for code in codes:
            if code.is_failure:
                _log.error("%s:%d refused a subscription: %s", *self._address, code)


def _send_at_once(_: Client, __: Any, connection: Any) -> None:
    """Against Nagle: each chunk's last bytes would wait 40 ms for an acknowledgement."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _properties(kind: int, **values: object) -> Properties:
    properties = Properties(kind)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


def _described(kind: int, message: Message) -> Properties:
    values: dict[str, object] = {}
    if message.content_type:
        values["ContentType"] = message.content_type
    if message.expiry is not None:
        values["MessageExpiryInterval"] = min(max(1, math.ceil(message.expiry)), 2**32 - 1)
    return _properties(kind, **values)


def _message(received: MQTTMessage) -> Message:
    properties = received.properties
    return Message(
        received.topic,
        bytes(received.payload),
        getattr(properties, "ContentType", ""),
        received.retain,
        getattr(properties, "MessageExpiryInterval", None),
    )
