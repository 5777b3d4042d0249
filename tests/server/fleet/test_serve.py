"""``flwr-fleet serve`` as a process: its signals, its folder, and a database that goes away."""

import logging
import shutil
import signal
import threading

import pytest
from sqlalchemy.exc import OperationalError

from schemas.enrolment import ENROL_PATH
from schemas.fleet import FleetFolder
from server.database import migrate, open_engine, revision_of
from server.fleet import anchor, hooks, serve
from server.fleet.alone import Alone
from server.fleet.registry import Registry, audit
from server.fleet.serve import Server
from server.fleet.trouble import Once, Trouble
from server.migrations import HEAD
from tests.server.fleet.requests import claim, request
from tests.server.fleet.site import Site


@pytest.fixture
def folder(made, migrated, tmp_path):
    shutil.copytree(made, tmp_path / "fleet")
    shutil.copy(migrated, tmp_path / "fleet" / "registry.sqlite")
    return FleetFolder(tmp_path / "fleet")


@pytest.fixture
def start(folder, process):
    return lambda: process(folder)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_it_after_it_has_cleaned_up(folder, start, number, code):
    server = start().listening()
    with Registry(folder.root / "registry.sqlite") as registry:
        with registry.write("test") as write:
            write.audit("test", "x")
        server.process.send_signal(number)
        got, said = server.ended()
        assert got == code, said
        assert "at exit" in said
        assert "Traceback" not in said
        with registry.read() as db:
            head = audit.head(db)
    assert anchor.anchors(folder.anchor)[head.number] == head.hash


def test_one_serves_a_folder(folder, start):
    first = start().listening()
    code, said = start().ended()
    assert code == 1
    assert "another flwr-fleet serve runs on this folder" in said
    assert "Traceback" not in said
    first.process.kill()  # its lock goes with it
    first.ended()
    start().listening()


def test_who_is_refused_has_not_brought_the_database_up_to_date(folder, start):
    """A server of the release before would not know it any more."""
    path = folder.root / "registry.sqlite"
    path.unlink()
    engine = open_engine(path)
    migrate(engine, "0001")
    first = Alone(folder.root, engine)
    code, said = start().ended()
    assert (code, "another flwr-fleet serve runs on this folder" in said) == (1, True)
    with engine.connect() as connection:
        assert revision_of(connection) == "0001"
    first.release()
    start().listening()
    with engine.connect() as connection:
        assert revision_of(connection) == HEAD
    engine.dispose()


def test_a_server_that_was_stopped_lets_its_folder_go(keeper):
    with Site(keeper), pytest.raises(RuntimeError, match="another flwr-fleet serve"):
        Server(keeper.folder, keeper.config, keeper, port=0)
    with Site(keeper):
        pass


class Lines(logging.Handler):
    """What is logged; waits for a line."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._more = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self._more:
            self.lines.append(self.format(record))
            self._more.notify_all()

    def wait(self, text: str) -> bool:
        with self._more:
            return self._more.wait_for(lambda: any(text in line for line in self.lines), 30)


@pytest.fixture
def lines():
    handler, log = Lines(), logging.getLogger("flwr_edge.fleet")
    log.addHandler(handler)
    yield handler
    log.removeHandler(handler)


def away(*_):
    raise OperationalError("SELECT 1", None, Exception("connection refused\nIs the server there?"))


def test_a_database_that_is_away_is_said_once_and_when_it_is_back(keeper, lines, monkeypatch):
    monkeypatch.setattr(serve, "_TICK", 0.02)
    monkeypatch.setattr(hooks, "tick", lambda *_: [])
    token, ticks, tick = claim(keeper, "watch-1"), threading.Semaphore(0), keeper.tick
    with Site(keeper) as site:
        with monkeypatch.context() as broken:
            broken.setattr(keeper.registry, "write", away)
            broken.setattr(keeper, "tick", lambda: (ticks.release(), tick())[1])
            status, problem = site.ask(ENROL_PATH, b"{")
            assert (status, problem["error"]) == (400, "malformed")  # though it cannot be noted
            status, problem = site.ask(ENROL_PATH, request(token))
            assert (status, problem["error"]) == (500, "broken")
            assert all(ticks.acquire(timeout=30) for _ in range(5))
        assert lines.wait("the database is back")
        assert site.ask(ENROL_PATH, request(token))[0] == 200
    first, second = lines.lines
    assert first == "the database: connection refused; tried again until it is back"
    assert second == "the database is back"


def test_a_broker_that_is_away_is_said_once(lines):
    log, once = logging.getLogger("flwr_edge.fleet"), Once()
    log.addFilter(once)
    for text in ("refused", "refused", "connected", "refused"):
        log.warning("the broker: %s", text)
    log.error("the broker: refused", exc_info=ValueError("x"))  # that may be another
    log.removeFilter(once)
    said = [line.removeprefix("the broker: ").partition("\n")[0] for line in lines.lines]
    assert said == ["refused", "connected", "refused", "refused"]


def test_what_is_no_absent_database_is_said_whole(lines):
    trouble = Trouble(logging.getLogger("flwr_edge.fleet"))
    for _ in range(2):
        trouble.met(ValueError("x"), "the fleet's keeper")
    trouble.over()
    assert len(lines.lines) == 2
    assert all("Traceback" in line or "ValueError: x" in line for line in lines.lines)
    for text in ("refused", "closed", "refused"):
        trouble.met(OperationalError("", None, Exception(text)), "")
    trouble.over()
    assert [line.partition(";")[0] for line in lines.lines[2:]] == [
        "the database: refused",
        "the database: closed",
        "the database is back",
    ]
