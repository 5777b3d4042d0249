"""A TCP proxy on loopback that counts what crosses, and cuts the line at a chosen byte."""

import contextlib
import select
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Literal

Way = Literal["up", "down"]  # from the device to the broker, and back
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: what is not sent yet is lost, as on a dead line


class Proxy:
    """Carries bytes between whoever connects and ``127.0.0.1:target``.

    Attributes
    ----------
    crossed : dict[str, int]
        Bytes handed on, by way, over all connections.
    cuts : int
        How often it cut.
    """

    def __init__(self, target: int) -> None:
        self.target, self.cuts = target, 0
        self.crossed: dict[str, int] = {"up": 0, "down": 0}
        self._cut: tuple[Way, int] | None = None
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(0.1)
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept, name="proxy")
        self._thread.start()

    def cut_after(self, way: Way, count: int) -> None:
        """Cut, once, when so many more bytes have crossed that way."""
        with self._lock:
            self._cut = (way, self.crossed[way] + count)

    def reset(self) -> None:
        """Count from nothing."""
        with self._lock:
            self.crossed, self.cuts, self._cut = {"up": 0, "down": 0}, 0, None

    def close(self) -> None:
        self._end.set()
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        carriers = []
        while not self._end.is_set():
            with contextlib.suppress(TimeoutError):
                device, _ = self._listener.accept()
                carriers.append(threading.Thread(target=self._carry, args=(device,), name="proxy"))
                carriers[-1].start()
        for carrier in carriers:
            carrier.join()

    def _carry(self, device: socket.socket) -> None:
        with device, contextlib.suppress(OSError):
            device.settimeout(5)
            with socket.create_connection(("127.0.0.1", self.target), 5) as broker:
                for end in (device, broker):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                ways: dict[socket.socket, tuple[Way, socket.socket]]
                ways = {device: ("up", broker), broker: ("down", device)}
                while not self._end.is_set():
                    for source in select.select(list(ways), [], [], 0.1)[0]:
                        if not self._hand_on(source, *ways[source]):
                            return

    def _hand_on(self, source: socket.socket, way: Way, to: socket.socket) -> bool:
        """Carry what there is, up to the cut; whether the line is still there."""
        with self._lock:
            due = self._cut is not None and self._cut[0] == way
            left = self._cut[1] - self.crossed[way] if self._cut and due else 65_536
        data = source.recv(min(left, 65_536)) if left > 0 else b""
        to.sendall(data)
        with self._lock:
            self.crossed[way] += len(data)
            if not due or len(data) < left or left > 65_536:
                return bool(data)
            self._cut = None
            self.cuts += 1
        for end in (source, to):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        return False


@contextlib.contextmanager
def proxy(target: int) -> Iterator[Proxy]:
    """A proxy for the length of a block."""
    made = Proxy(target)
    try:
        yield made
    finally:
        made.close()
