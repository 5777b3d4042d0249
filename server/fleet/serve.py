"""``flwr-fleet serve``: the enrolment server, and what keeps the fleet's folder true."""

import logging
import ssl
import threading
from collections.abc import Callable
from typing import Final

import uvicorn

from schemas.fleet import FleetConfig, FleetFolder
from server.fleet.enrolment import Registrar
from server.fleet.https import Border, ShortLived
from server.fleet.keeper import Keeper

_FLUSH: Final = 0.2  # seconds between tellings of devices that came
_TICK: Final = 5.0
_log = logging.getLogger("flwr_edge.fleet")


class Server:
    """Serves until it is stopped.

    Parameters
    ----------
    folder : FleetFolder
    config : FleetConfig
    keeper : Keeper
    port : int, optional
        Another port than the configuration's; 0 is any that is free.
    """

    def __init__(
        self, folder: FleetFolder, config: FleetConfig, keeper: Keeper, port: int | None = None
    ) -> None:
        self._keeper, self._end = keeper, threading.Event()
        keeper.tick()
        registrar = Registrar(
            keeper.registry, keeper.authority, config, folder.signing_public.read_text().strip()
        )
        settings = uvicorn.Config(
            Border(registrar, keeper.accepted).app(),
            host=config.server.listen,
            port=config.server.port if port is None else port,
            http=ShortLived,
            ssl_certfile=folder.server / "certificate.pem",
            ssl_keyfile=folder.server / "key.pem",
            limit_concurrency=config.enrolment.most_at_once,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=3,
            log_config=None,
            access_log=False,
            server_header=False,
        )
        settings.load()
        assert settings.ssl is not None
        settings.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
        self._ssl, self._server_folder = settings.ssl, folder.server
        self._uvicorn = uvicorn.Server(settings)

    @property
    def port(self) -> int:
        """The port that it listens on, once it does."""
        return int(self._uvicorn.servers[0].sockets[0].getsockname()[1])

    @property
    def started(self) -> bool:
        """Whether it listens."""
        return self._uvicorn.started

    def run(self) -> None:
        """Serve; returns when told to stop, by a signal or by ``stop``."""
        threads = [
            threading.Thread(target=self._every, args=(_FLUSH, self._keeper.flush), daemon=True),
            threading.Thread(target=self._every, args=(_TICK, self._tick), daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            self._uvicorn.run()
        finally:
            self._end.set()
            for thread in threads:
                thread.join()
            self._keeper.flush()
            self._keeper.note()

    def stop(self) -> None:
        """End ``run``."""
        self._uvicorn.should_exit = True

    def _tick(self) -> None:
        if self._keeper.tick():
            self._ssl.load_cert_chain(
                self._server_folder / "certificate.pem", self._server_folder / "key.pem"
            )

    def _every(self, seconds: float, work: Callable[[], object]) -> None:
        while not self._end.wait(seconds):
            try:
                work()
            except Exception:  # noqa: BLE001 - a full disk must not end the watch
                _log.exception("the fleet's keeper")
