"""What ``serve`` calls every few seconds."""

import logging
import time

import pytest
from sqlalchemy.exc import OperationalError

from schemas.memory_link import MemoryBroker, MemoryLink
from server.fleet import hearing
from server.fleet.folder_files import lasting
from server.fleet.listing import device_rows
from server.fleet.registry import Registry
from server.fleet.rollouts import service
from tests.client import orders
from tests.server.fleet import folders
from tests.server.transport.fake_device import FakeDevice, will_of


def test_it_hears_who_is_online_before_there_is_a_roll_out(tmp_path, migrated, monkeypatch):
    folder = folders.made(tmp_path / "fleet", migrated, "ab")
    broker = MemoryBroker()
    made = []

    def link(*_):
        made.append(MemoryLink(broker, "server"))
        return made[-1]

    monkeypatch.setattr(service, "server_link", link)
    monkeypatch.setattr(service, "signing_key", lambda *_: orders.KEY)
    service.tick(folder, folder.config())
    service.tick(folder, folder.config())
    assert len(made) == 1
    device = FakeDevice(MemoryLink(broker, "a", will=will_of("a")), "a", tmp_path / "devices")
    broker.pump()
    with Registry(folder.root / "registry.sqlite") as registry, registry.read() as db:
        assert [row["online"] for row in device_rows(db)] == [True, None]
    device.link.close()
    service.stop(folder)
    service.stop(folder)


def test_it_notes_how_its_connection_stands(tmp_path, migrated, monkeypatch):
    away = iter([OperationalError("select", {}, Exception("the database is away"))] * 3)

    def serving(_):
        for error in away:
            raise error
        return "pid 7"

    monkeypatch.setattr(service, "serving", serving)
    folder, broker = folders.made(tmp_path / "fleet", migrated), MemoryBroker()
    link = MemoryLink(broker, "server")
    running = service.Service(folder, folder.config(), orders.KEY, link, every=0.01)

    def note(**wanted):
        end = time.monotonic() + 10
        while not wanted.items() <= dict(hearing.read(folder.hearing) or ()).items():
            assert time.monotonic() < end, hearing.read(folder.hearing)
            time.sleep(0.01)

    running.start()
    note(connected=False, server="pid 7", lost=0)
    broker.pump()
    note(connected=True, why="", lost=0)
    broker.crash()
    broker.pump()
    note(connected=False, why="the broker is gone", lost=1)
    running.stop()
    note(connected=False, why="it was stopped", lost=1)
    assert folder.hearing not in set(lasting(folder.root, ()))  # it is in no backup


def test_a_note_that_is_no_good_is_none(tmp_path):
    assert hearing.read(tmp_path / "none") is None
    for text in ("", "{}", '{"server": 1}', "x" * 9999):
        (tmp_path / "note").write_text(text)
        assert hearing.read(tmp_path / "note") is None


def test_a_signing_key_that_is_not_there_is_named(tmp_path, migrated):
    from schemas.base import ConfigError
    from server.fleet.signer import signing_key

    folder = folders.made(tmp_path / "fleet", migrated)
    with pytest.raises(ConfigError, match="key file cannot be read"):
        signing_key(folder, folder.config())


def test_a_broker_that_is_away_is_said_once_while_it_runs(tmp_path, migrated, caplog):
    folder, log = folders.made(tmp_path / "fleet", migrated), logging.getLogger("flwr_edge.link")
    link = MemoryLink(MemoryBroker(), "server")
    running = service.Service(folder, folder.config(), orders.KEY, link)
    for act in (running.start, running.stop):
        act()
        caplog.clear()
        for _ in range(2):
            log.warning("refused")
        assert len(caplog.records) == (1 if act == running.start else 2)
