"""``flwr-fleet serve``: the enrolment server, and what keeps the fleet's folder true."""

import contextlib
import logging
import signal
import ssl
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Final

import uvicorn

from schemas.fleet import FleetConfig, FleetFolder
from server.fleet.alone import Alone
from server.fleet.enrolment import Registrar
from server.fleet.errors import TakenError
from server.fleet.https import Border, ShortLived
from server.fleet.keeper import Keeper
from server.fleet.rollouts import service
from server.fleet.trouble import Trouble

_FLUSH: Final = 0.2  # seconds between tellings of devices that came
_TICK: Final = 5.0
_LOOK: Final = 1.0  # seconds between looks at the lock
_log = logging.getLogger("flwr_edge.fleet")


class _Uvicorn(uvicorn.Server):
    """Leaves signals alone: uvicorn raises them again before ``Server.run`` has cleaned up."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


class Server:
    """Serves until it is stopped.

    Parameters
    ----------
    folder : FleetFolder
    config : FleetConfig
    keeper : Keeper
    port : int, optional
        Another port than the configuration's; 0 is any that is free.
    alone : Alone, optional
        What holds the folder and the database; taken here if left out. It is let go at the end.

    Raises
    ------
    TakenError
        Where another serves the folder, or its database: both would drive its roll-outs.
    """

    def __init__(
        self,
        folder: FleetFolder,
        config: FleetConfig,
        keeper: Keeper,
        port: int | None = None,
        alone: Alone | None = None,
    ) -> None:
        self._folder, self._keeper, self._end = folder, keeper, threading.Event()
        self._alone = alone or Alone(folder.root, keeper.registry.engine)
        self._release = weakref.finalize(self, self._alone.release)
        self._taken: TakenError | None = None
        self._trouble, self._interrupted = Trouble(_log), False
        keeper.tick()
        registrar = Registrar(
            keeper.registry, keeper.authority, config, folder.signing_public.read_text().strip()
        )
        settings = uvicorn.Config(
            Border(registrar, keeper.accepted, self._trouble).app(),
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
        self._ssl = settings.ssl
        self._uvicorn = _Uvicorn(settings)

    @property
    def port(self) -> int:
        """The port that it listens on, once it does."""
        return int(self._uvicorn.servers[0].sockets[0].getsockname()[1])

    @property
    def started(self) -> bool:
        """Whether it listens."""
        return self._uvicorn.started

    def run(self) -> None:
        """Serve; returns when told to stop, by SIGTERM or by ``stop``.

        Raises
        ------
        KeyboardInterrupt
            After Ctrl-C, when all is done that is done at an end.
        TakenError
            Likewise, where the lock of the database was lost and another server has it.
        """
        threads = [
            threading.Thread(target=self._every, args=(_FLUSH, self._keeper.flush), daemon=True),
            threading.Thread(target=self._every, args=(_TICK, self._tick), daemon=True),
            threading.Thread(target=self._every, args=(_LOOK, self._stay), daemon=True),
        ]
        for thread in threads:
            thread.start()
        with self._signals():
            try:
                self._uvicorn.run()
            finally:
                self._end.set()
                for thread in threads:
                    thread.join()
                service.stop(self._folder)  # before another may drive the same roll-outs
                self._last_words()
                self._release()
        if self._interrupted:
            raise KeyboardInterrupt
        if self._taken is not None:
            raise self._taken

    def stop(self) -> None:
        """End ``run``."""
        self._uvicorn.should_exit = True

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Have SIGTERM and Ctrl-C end ``run``; only a main thread is told of them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.signal(each, self._told) for each in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def _told(self, number: int, _: object) -> None:
        if number == signal.SIGINT and self._interrupted:  # again: somebody will not wait
            self._uvicorn.force_exit = True
            if self._end.is_set():
                raise KeyboardInterrupt
        self._interrupted |= number == signal.SIGINT
        self.stop()

    def _last_words(self) -> None:
        """Tell of devices that came, and note the log's head, if the database is there."""
        try:
            self._keeper.flush()
            self._keeper.note()
        except Exception as error:  # noqa: BLE001 - the end comes all the same
            self._trouble.met(error, "the fleet's keeper, at the end")

    def _tick(self) -> None:
        if self._keeper.tick():
            own = self._folder.server
            self._ssl.load_cert_chain(own / "certificate.pem", own / "key.pem")
        self._trouble.over()

    def _stay(self) -> None:
        """End where another serves by now."""
        try:
            self._alone.look()
        except TakenError as error:
            self._taken = error
            self._end.set()
            self.stop()

    def _every(self, seconds: float, work: Callable[[], object]) -> None:
        while not self._end.wait(seconds):
            try:
                work()
            except Exception as error:  # noqa: BLE001 - a full disk must not end the watch
                self._trouble.met(error, "the fleet's keeper")
