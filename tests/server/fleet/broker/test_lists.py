"""Who is thrown out at the broker, and how often; ``test_revocation.py`` does it on a real one."""

import shutil

import pytest
from sqlalchemy import update

from server.fleet.broker import lists
from server.fleet.registry import Registry
from server.transport.tables import DeviceRow
from tests.server.fleet.test_figures import fill


@pytest.fixture
def changed(made, migrated, tmp_path, monkeypatch):
    """Tell of a change; which sessions are ended, before and after the lists are read."""
    from schemas.fleet import FleetFolder

    folder = FleetFolder(tmp_path / "fleet")
    shutil.copytree(made, folder.root)
    shutil.copy(migrated, folder.root / "registry.sqlite")
    (folder.broker / "mosquitto.conf").touch()
    with Registry(folder.root / "registry.sqlite") as registry:
        fill(registry, 4)
        with registry.write("x") as write:
            for name, state in (("watch-0", {"online": True}), ("watch-1", {"online": False})):
                rows = update(DeviceRow).where(DeviceRow.id == name)
                write.db.execute(rows.values(state=state, online=False))
    done = []

    class Control:
        def __init__(self, *_):
            pass

        def throw_out(self, names):
            done.append(sorted(names))

    monkeypatch.setattr(lists, "Control", Control)
    monkeypatch.setattr(lists, "follow", lambda *_: done.append("lists"))

    def call(revoked, gone=()):
        done.clear()
        lists.changed(folder, folder.config(), [], revoked, gone)
        return done

    return call


def test_who_may_have_come_back_alone_is_thrown_out_again(changed):
    first = ["watch-0", "watch-1", "watch-2"]
    assert changed(first[:2], first[2:]) == [first, "lists", ["watch-0", "watch-2"]]
    assert changed(["watch-1"]) == [["watch-1"], "lists"]


def test_whom_the_broker_never_let_in_has_no_session(changed):
    assert changed([f"expected-{number}" for number in range(700)]) == ["lists"]
