"""A worker process: runs one client's message after the other and keeps nothing of any.

It imports Flower and the client app, and no torch: whatever the parent has loaded stays there.
"""

import contextlib
import fcntl
import gc
import importlib
import os
import select
import signal
import socket
import struct
import time
import traceback
from typing import Any

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from server.flower_private import identify, metadata_fields, rebuild
from simulations.engine import arena, codec

REQUEST = struct.Struct("<QQQQQ")  # task, slot of the reply, offset, frame's length, state's length
REPLY = struct.Struct("<QQqd")  # task, frame's length, state's length (-1: as before), seconds
READY, FAILED, DOORBELL = b"r", b"f", b"d"
_RING_EVERY = 0.001  # seconds; waking the parent for each small client costs more than the client
_F_SETSIG = 10  # Linux; the fcntl module does not name it


def die_with_parent(life: int) -> None:
    """Have the kernel kill this process when the parent, who holds the pipe's other end, ends.

    Unlike a thread that waits, this also ends a client that hangs in native code; unlike
    ``PR_SET_PDEATHSIG`` it does not fire when only the thread that started the worker ends.
    """
    fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(life, _F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([life], [], [], 0)[0]:  # the parent was gone before the signal was armed
        os._exit(1)


def load_app(path: str) -> ClientApp:
    """Import the app that ``module:attribute`` names."""
    module, _, attribute = path.partition(":")
    app: Any = importlib.import_module(module)
    for name in (attribute or "app").split("."):
        app = getattr(app, name)
    if not isinstance(app, ClientApp):
        raise TypeError(f"{path} is a {type(app).__name__}, not a flwr.clientapp.ClientApp")
    return app


class Worker:
    """Runs messages that lie in the parent's arena and writes the replies into its own memory."""

    def __init__(self, app: ClientApp, run_config: dict[str, Any], inbox: int, outbox: int) -> None:
        self._app = app
        self._run_config = run_config
        self._inbox = inbox
        self._outbox = outbox

    def run(self, request: bytes) -> None:
        """Run one request and write its reply, be it that the client raised."""
        started = time.perf_counter()
        task, slot, offset, length, state_length = REQUEST.unpack(request)
        state: list[bytes] | None
        try:
            frame, state = self._call(offset, length, state_length)
        except BaseException as error:  # noqa: BLE001  a client may raise anything, SystemExit too
            reason = f"{type(error).__name__}: {error}"
            frame, state = codec.encode(None, {"failed": reason, "trace": _trace(error)}), None
        place = slot * arena.STRIDE
        size = arena.write(self._outbox, [*frame, *(state or ())], place + REPLY.size)
        kept = -1 if state is None else sum(map(len, state))
        reply = REPLY.pack(task, size - max(kept, 0), kept, time.perf_counter() - started)
        os.pwrite(self._outbox, reply, place)  # last: once it is there, all of the reply is

    def _read(self, offset: int, length: int) -> bytes:
        return arena.read(self._inbox, offset, length)

    def _call(
        self, offset: int, length: int, state_length: int
    ) -> tuple[list[bytes], list[bytes] | None]:
        content, head = codec.decode(self._read, offset, length)
        message = rebuild(head["metadata"], content or RecordDict())
        state, before = RecordDict(), list[bytes]()
        if state_length:
            state = codec.decode(self._read, offset + length, state_length)[0] or state
            before = codec.state_parts(state)
        run_id, node_id = message.metadata.run_id, message.metadata.dst_node_id
        identify(run_id, node_id)
        context = Context(run_id, node_id, head["node_config"], state, dict(self._run_config))
        frame = _encode_reply(self._app(message, context), message)
        after = codec.state_parts(context.state)
        return frame, None if after == before else after


def _encode_reply(reply: object, message: Message) -> list[bytes]:
    if not isinstance(reply, Message):
        raise TypeError(f"the client app returned a {type(reply).__name__}, not a Message")
    if reply.metadata.reply_to_message_id != message.metadata.message_id:
        raise ValueError("the client app returned a message that is no reply to the one it got")
    head: dict[str, Any] = {"metadata": metadata_fields(reply)}
    if reply.has_error():
        head["error"] = [reply.error.code, reply.error.reason]
        return codec.encode(None, head)
    return codec.encode(reply.content, head)


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def serve(worker: Worker, parent: socket.socket) -> None:
    """Run requests until the parent hangs up.

    The parent finds replies in this worker's memory, in the order of its requests, also when the
    worker has died since. It is woken when there is nothing left to do, and now and then before.
    """
    rung = time.monotonic()
    while True:
        try:
            request = parent.recv(REQUEST.size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            parent.send(DOORBELL)
            rung = time.monotonic()
            request = parent.recv(REQUEST.size)
        if not request:
            return
        worker.run(request)
        if (now := time.monotonic()) - rung > _RING_EVERY:
            parent.send(DOORBELL)
            rung = now


def main(hello: dict[str, Any], inbox: int, outbox: int, link: int, life: int) -> None:
    """Load the client app and serve.

    Parameters
    ----------
    hello
        ``app`` and ``run_config``.
    inbox, outbox, link, life
        Descriptors: the parent's arena, this worker's replies, the socket, the pipe that closes
        when the parent ends.
    """
    die_with_parent(life)
    with socket.socket(fileno=link) as parent:
        try:
            app = load_app(hello["app"])
        except BaseException as error:  # noqa: BLE001  importing an app may raise anything
            parent.send(
                FAILED + f"{type(error).__name__}: {error}\n{_trace(error)}".encode()[:9999]
            )
            return
        gc.freeze()  # what was imported stays; collections need not walk it
        parent.send(READY)
        with contextlib.suppress(ConnectionError):  # the parent may hang up at any time
            serve(Worker(app, hello["run_config"], inbox, outbox), parent)
