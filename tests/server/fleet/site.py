"""A real enrolment server on a free loopback port, in a thread."""

import http.client
import json
import ssl
import threading
import time
from typing import Any

from schemas.enrolment import Sent
from server.fleet.keeper import Keeper
from server.fleet.serve import Server


class Site:
    """One server.

    Attributes
    ----------
    name : str
        ``HOST:PORT``.
    """

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self._server = Server(keeper.folder, keeper.config, keeper, port=0)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> "Site":
        self._thread.start()
        end = time.monotonic() + 30
        while not self._server.started and time.monotonic() < end:
            time.sleep(0.01)
        self.port = self._server.port
        self.name = f"localhost:{self.port}"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop()
        self._thread.join(20)
        assert not self._thread.is_alive()

    def connect(self, address: str = "127.0.0.1") -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=self.keeper.folder.bundle_of_cas)
        return http.client.HTTPSConnection(
            "localhost", self.port, timeout=20, context=context, source_address=(address, 0)
        )

    def ask(
        self, path: str, body: Sent | bytes, address: str = "127.0.0.1", **headers: str
    ) -> tuple[int, dict[str, Any]]:
        """Post; status and answer."""
        data = body if isinstance(body, bytes) else body.model_dump_json().encode()
        connection = self.connect(address)
        try:
            connection.request("POST", path, data, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()
