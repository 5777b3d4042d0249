"""Registries on SQLite and on PostgreSQL, and fleets' folders."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.database import migrate, open_engine
from server.fleet.registry import Registry


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
