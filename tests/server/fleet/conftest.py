"""Registries on SQLite and on PostgreSQL, and fleets' folders."""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from schemas.fleet import FleetConfig, FleetFolder, Lifetimes, Server
from server.cli import main
from server.database import migrate, open_engine
from server.fleet import secret
from server.fleet.authority import Authority
from server.fleet.create import create
from server.fleet.enrolment import Registrar
from server.fleet.keeper import Keeper
from server.fleet.registry import Registry
from server.fleet.rollouts import service
from tests.server.fleet.process import Process


class Clock:
    """Unix time that stands still."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with all tables, to copy."""
    path = tmp_path_factory.mktemp("migrated") / "empty.sqlite"
    engine = open_engine(path)
    migrate(engine)
    engine.dispose()
    return path


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """An empty database with all tables, on either system."""
    if request.param == "postgres":
        url: str = request.getfixturevalue("postgres_server").new("migrated")
        return url
    path = tmp_path / "registry.sqlite"
    shutil.copy(request.getfixturevalue("migrated"), path)
    return path


@pytest.fixture
def registry(database: Path | str, clock: Clock) -> Iterator[Registry]:
    with Registry(database, clock=clock) as registry:
        yield registry


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fleet's folder as ``init`` makes it, but for its database and what is noted of it."""
    root = tmp_path_factory.mktemp("made") / "fleet"
    config = FleetConfig(server=Server(port=0), lifetimes=Lifetimes(crl_hours=24))
    create(FleetFolder(root), config, lambda _: None)
    (root / "registry.sqlite").unlink()
    (root / "audit.anchor").unlink()
    return root


@pytest.fixture
def keeper(made: Path, registry: Registry, clock: Clock, tmp_path: Path) -> Iterator[Keeper]:
    """A fleet on either database, whose clock a test moves."""
    folder = FleetFolder(tmp_path / "fleet")
    shutil.copytree(made, folder.root)
    config = folder.config()
    clock.now = float(int(time.time()))
    authority = Authority(folder, config.lifetimes, secret.load(folder, config), clock)
    yield Keeper(folder, config, registry, authority)
    service.stop(folder)  # a tick begins it


@pytest.fixture
def registrar(keeper: Keeper) -> Registrar:
    return Registrar(keeper.registry, keeper.authority, keeper.config, "ab" * 32)


@pytest.fixture
def process() -> Iterator[Callable[[FleetFolder], Process]]:
    """Start ``flwr-fleet serve`` on a folder; killed at the end."""
    made: list[Process] = []

    def start(folder: FleetFolder) -> Process:
        made.append(Process(folder))
        return made[-1]

    yield start
    for each in made:
        each.process.kill()
        each.process.communicate()


@pytest.fixture
def run(fleet: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command line on a module's own fleet; its exit code, output and errors."""

    def call(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(words))
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return call
