"""The daemon's local API: JSON lines over a Unix socket.

A request is one line, ``{"do": "status"}`` with whatever else its handler reads. The answer is one
line: ``{"ok": true, "answer": {…}}`` or ``{"ok": false, "error": "…"}``. A connection may ask
again and again; one that is silent for 30 s is closed. Who may ask is who may open the socket, 16
at a time: the next is told so, unasked, and closed.
"""

import contextlib
import json
import logging
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

log = logging.getLogger(__name__)

Handler = Callable[[dict[str, Any]], dict[str, Any]]

MAX_LINE: Final = 1 << 20
ACTIONS: Final = ("status", "prediction", "pause", "resume", "predict")
_CONNECTIONS: Final = 16
_IDLE: Final = 30.0  # seconds for which a silent connection is kept
_LONGEST_PATH: Final = 107  # of a Unix socket, by the kernel


class ApiError(RuntimeError):
    """A daemon that does not answer, or says no."""


def default_socket() -> Path:
    """``$FLWR_EDGE_SOCKET``, or the one of the system's service."""
    return Path(os.environ.get("FLWR_EDGE_SOCKET") or "/run/flwr-edge/api.sock")


class LocalApi:
    """Answers on a Unix socket, from a thread of its own.

    Parameters
    ----------
    path : Path
        The socket. One left by a daemon that was killed is replaced.
    handlers : mapping of str to callable(dict) -> dict
        By the name in ``do``: the daemon serves ``ACTIONS``. They run on threads of this API, two
        at a time where two ask. A ValueError, RuntimeError or OSError is told to who asked.
    """

    def __init__(self, path: Path, handlers: Mapping[str, Handler]) -> None:
        self._path, self._handlers = path, dict(handlers)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen.

        Raises
        ------
        OSError
            Where the socket cannot be made, another daemon answers there, or the path is another
            kind of file.
        """
        try:
            _clear(self._path)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._server = _Server(str(self._path), self._handlers)
        except PermissionError as error:  # a socket's names no file
            said = f"{self._path}: the daemon's socket cannot be made here: {error.strerror}"
            raise PermissionError(f"{said}; --socket names another place") from None
        self._path.chmod(0o660)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.2,), name="local-api", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Close the socket and remove it; what is being answered is not waited for."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._path.unlink(missing_ok=True)
        self._server = self._thread = None


def ask(path: Path, action: str, *, timeout: float = 10.0, **more: Any) -> dict[str, Any]:
    """Ask the daemon that listens at a socket.

    Raises
    ------
    ApiError
        Where none answers, or it refuses.
    """
    line = json.dumps({"do": action, **more}).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout)
            connection.connect(str(path))
            with contextlib.suppress(BrokenPipeError):  # it said no before it was asked
                connection.sendall(line)
            with connection.makefile("rb") as file:
                answer = _read(file.readline(MAX_LINE + 1))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise ApiError(f"{path}: no daemon answers here: {why}") from error
    if not isinstance(answer, dict) or not answer.get("ok"):
        said = answer.get("error") if isinstance(answer, dict) else answer
        raise ApiError(f"the daemon says: {said}")
    found = answer.get("answer")
    return found if isinstance(found, dict) else {}


def _read(line: bytes) -> Any:
    if not line:
        raise ConnectionError("it hung up")
    return json.loads(line)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = _CONNECTIONS

    def __init__(self, path: str, handlers: Mapping[str, Handler]) -> None:
        self.handlers = handlers
        self._places = threading.BoundedSemaphore(_CONNECTIONS)
        super().__init__(path, _Connection)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        if self._places.acquire(blocking=False):
            return True
        with contextlib.suppress(OSError):
            said = _no(f"{_CONNECTIONS} programs are connected; ask again when one has gone")
            request.sendall(said + b"\n")
        return False

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a local connection broke", exc_info=True)


class _Connection(socketserver.StreamRequestHandler):
    timeout = _IDLE
    server: _Server

    def handle(self) -> None:
        while True:
            try:
                line = self.rfile.readline(MAX_LINE + 1)
            except OSError:
                return
            if not line:
                return
            whole = line.endswith(b"\n")
            said = _answer(line, self.server.handlers) if whole else _no(_not_a_line(line))
            self.wfile.write(said + b"\n")
            if not whole:
                return  # where the next line starts is not known


def _not_a_line(line: bytes) -> str:
    if len(line) > MAX_LINE:
        return f"the line is longer than {MAX_LINE} bytes"
    return "the line does not end"


def _answer(line: bytes, handlers: Mapping[str, Handler]) -> bytes:
    try:
        asked = json.loads(line)
    except (ValueError, RecursionError) as error:
        return _no(f"not a line of JSON: {error}")
    action = asked.get("do") if isinstance(asked, dict) else None
    if not isinstance(action, str) or action not in handlers:
        return _no(f'expected {{"do": …}} with one of {", ".join(sorted(handlers))}')
    try:
        answer = handlers[action](asked)
        return json.dumps({"ok": True, "answer": answer}).encode()
    except (ValueError, RuntimeError, OSError) as error:
        return _no(str(error))
    except Exception as error:
        log.exception("the local API's %s failed", action)
        return _no(f"{action} failed: {type(error).__name__}")


def _no(error: str) -> bytes:
    return json.dumps({"ok": False, "error": error}).encode()


def _clear(path: Path) -> None:
    """Remove a socket that nobody listens at."""
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise OSError(f"{path}: a socket's path has at most {_LONGEST_PATH} bytes")
    if not os.path.lexists(path):
        return
    if not path.is_socket():
        raise FileExistsError(f"{path}: is there and is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise FileExistsError(f"{path}: another daemon answers here")
