"""One server a folder and a database, whatever becomes of the session that says so."""

import contextlib
import os
import re
import shutil
import signal
import threading

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from schemas.fleet import FleetFolder
from server.database import open_engine
from server.fleet import hooks, serve
from server.fleet.alone import Alone, serving
from server.fleet.errors import TakenError
from server.fleet.keeper import Keeper
from server.fleet.serve import Server
from tests import postgres
from tests.server.fleet.site import Site

WHO = rf"pid {os.getpid()} on \S+, since \d{{4}}-\d\d-\d\dT\S+"


@pytest.fixture
def engine(database):
    engine = open_engine(database)
    yield engine
    engine.dispose()


@pytest.fixture
def folders(tmp_path):
    made = [tmp_path / name for name in ("one", "two")]
    for each in made:
        each.mkdir()
    return made


@contextlib.contextmanager
def held(one):
    try:
        yield one
    finally:
        one.release()


def ended(engine):
    """End the session that holds the lock, as an operator or a restart does.

    One that was refused may still be seen: the database ends it a moment after it has left.
    """
    with engine.connect() as connection:
        key = "pg_terminate_backend(pid)"
        held = f"SELECT {key} FROM pg_locks WHERE locktype = 'advisory' AND granted"
        assert connection.execute(text(held)).all() == [(True,)]


def test_one_serves_a_database_and_who_comes_second_is_told_who(engine, folders):
    assert serving(engine) is None
    first = Alone(folders[0], engine)
    assert re.fullmatch(WHO, serving(engine))
    said = rf"another flwr-fleet serve runs on this database: {WHO}; one serves all of it"
    for _ in range(2):  # who was refused holds nothing, of its own folder either
        with pytest.raises(TakenError, match=said):
            Alone(folders[1], engine)
    first.look()
    first.release()
    assert serving(engine) is None
    with pytest.raises(TakenError, match="on this folder"), held(Alone(folders[1], engine)):
        Alone(folders[1], engine)


def test_other_databases_are_served_besides(database, folders, tmp_path, request):
    if isinstance(database, str):
        other = request.getfixturevalue("postgres_server").new("migrated")
    else:
        other = shutil.copy(database, tmp_path / "other.sqlite")
    held = [
        Alone(folder, open_engine(url))
        for folder, url in zip(folders, (database, other), strict=True)
    ]
    for each in held:
        each.look()
        each.release()


def test_a_folders_own_file_is_held_for_those_who_name_it_from_elsewhere(folders, migrated):
    inside = shutil.copy(migrated, folders[0] / "registry.sqlite")
    (folders[1] / "link.sqlite").symlink_to(inside)
    with held(Alone(folders[0], open_engine(inside))):
        for name in (f"sqlite:///{inside}", folders[1] / "link.sqlite"):
            with pytest.raises(TakenError, match="on this database"):
                Alone(folders[1], open_engine(name))


def test_a_look_of_doctors_keeps_nobody_out(folders, migrated, tmp_path):
    """It holds the file's lock for a moment."""
    path = shutil.copy(migrated, tmp_path / "registry.sqlite")
    engine, over = open_engine(path), threading.Event()

    def looks():
        while not over.is_set():
            serving(engine)

    thread = threading.Thread(target=looks)
    with held(Alone(folders[0], engine)):
        pass
    thread.start()
    try:
        for _ in range(20):
            Alone(folders[0], engine).release()
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_session_that_was_lost_is_replaced(engine, folders):
    first = Alone(folders[0], engine)
    ended(engine)
    assert serving(engine) is None
    first.look()
    assert re.fullmatch(WHO, serving(engine))
    with pytest.raises(TakenError):
        Alone(folders[1], engine)
    ended(engine)
    second = Alone(folders[1], engine)
    with pytest.raises(TakenError, match=WHO):
        first.look()
    second.release()
    first.look()
    first.release()


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_lost_session_that_the_database_has_not_missed_yet_keeps_its_owner_out_never(
    engine, folders
):
    """A cut network: the database waits for a session whose other end is gone."""
    first = Alone(folders[0], engine)
    lost, first._database._session = first._database._session, None
    first.look()
    assert re.fullmatch(WHO, serving(engine))
    with pytest.raises(DBAPIError):
        lost.execute(text("SELECT 1"))
    first.release()


def test_a_database_that_restarts_is_held_again(folders, tmp_path):
    """It forgets all locks; while it is away nobody can say who has them."""
    programs = postgres.programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian package postgresql)")
    with postgres.running(programs) as server:
        engine = open_engine(server.url("postgres"))
        first = Alone(folders[0], engine)
        server.stop()
        for _ in range(2):
            with pytest.raises(DBAPIError):
                first.look()
        server.start()
        first.look()
        first.look()
        assert re.fullmatch(WHO, serving(engine))
        first.release()
        engine.dispose()


def second_folder(keeper, tmp_path):
    """The same fleet's folder on another machine."""
    folder = FleetFolder(tmp_path / "elsewhere")
    shutil.copytree(keeper.folder.root, folder.root)
    return Keeper(folder, keeper.config, keeper.registry, keeper.authority)


def test_two_folders_of_one_database_are_not_both_served(keeper, tmp_path):
    other = second_folder(keeper, tmp_path)
    with Site(keeper), pytest.raises(TakenError, match=f"this database: {WHO}"):
        Server(other.folder, other.config, other, port=0)
    with Site(other):
        pass


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_a_server_ends_whose_database_another_took_meanwhile(keeper, engine, tmp_path, monkeypatch):
    monkeypatch.setattr(serve, "_LOOK", 0.1)
    monkeypatch.setattr(hooks, "tick", lambda *_: [])
    other, raised = second_folder(keeper, tmp_path), []
    first, stopped = Server(keeper.folder, keeper.config, keeper, port=0), []
    monkeypatch.setattr(serve.service, "stop", stopped.append)

    def run():
        try:
            first.run()
        except TakenError as error:
            raised.append(str(error))

    look, may = first._alone.look, threading.Event()
    monkeypatch.setattr(first._alone, "look", lambda: look() if may.is_set() else None)
    thread = threading.Thread(target=run)
    thread.start()
    ended(engine)
    second = Alone(other.folder.root, engine)
    may.set()
    thread.join(30)
    assert not thread.is_alive()
    (said,) = raised
    assert re.search(f"another flwr-fleet serve runs on this database: {WHO}", said)
    assert stopped == [keeper.folder]  # its roll-outs ended with it
    second.release()


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
def test_the_second_command_ends_with_a_line_and_the_folder_locks_code(
    keeper, database, tmp_path, process
):
    other = second_folder(keeper, tmp_path)
    for each in (keeper.folder, other.folder):
        told = each.file.read_text()
        assert 'database = "registry.sqlite"' in told
        each.file.write_text(told.replace("registry.sqlite", database))
    first = process(keeper.folder).listening()
    code, said = process(other.folder).ended()
    assert code == 1
    assert f"this database: pid {first.process.pid} on " in said
    assert "Traceback" not in said
    first.process.send_signal(signal.SIGKILL)  # its lock goes with it
    first.ended()
    process(other.folder).listening()
