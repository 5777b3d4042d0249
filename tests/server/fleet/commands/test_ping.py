"""Who is asked by ``flwr-fleet device ping``, and when."""

import contextlib
import json
import time
from types import SimpleNamespace

import pytest

from server.fleet.commands import ping
from server.fleet.errors import NotFoundError
from tests.server.fleet import folders


class Grid:
    """Devices that answer at once, from so many seconds on; None: there, and they say nothing."""

    def __init__(self, **devices):
        self.devices, self.began, self.asked = devices, time.monotonic(), {}
        self.withdrawn = []

    def find(self, names, timeout):
        end = time.monotonic() + timeout
        while True:
            now = time.monotonic() - self.began
            wanted = list(names) or list(self.devices)
            there = [name for name in wanted if (self.devices.get(name, 1e9) or 0) <= now]
            if len(there) == len(wanted) or time.monotonic() >= end:
                return {name: number for number, name in enumerate(there)}
            time.sleep(0.005)

    def push_messages(self, messages):
        return [self._pushed(message) for message in messages]

    def _pushed(self, message):
        id_ = f"{len(self.asked)}"
        self.asked[id_] = message
        return id_

    def pull_messages(self, waiting):
        for id_, (name, _) in list(waiting.items()):
            if self.devices[name] is not None:
                said = SimpleNamespace(reply_to_message_id=id_)
                yield SimpleNamespace(metadata=said, has_error=lambda: False)

    def withdraw(self, ids):
        self.withdrawn += ids


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(ping, "_SETTLE", 0.05)
    monkeypatch.setattr(ping, "_SEEK", 0.02)


def asked(grid, *names, timeout=2):
    rows = ping._asked(grid, dict.fromkeys(names, "accepted"), timeout)
    return {row["device"]: row["answer"] for row in rows}


def test_who_is_off_takes_no_time_from_the_others():
    grid = Grid(a=0.0, late=0.2, silent=None)
    found = asked(grid, "a", "late", "off", "silent")
    assert found == {"a": "good", "late": "good", "off": "offline", "silent": "none within 2 s"}
    assert len(grid.withdrawn) == 1


def test_it_ends_as_soon_as_all_have_answered():
    grid = Grid(a=0.0, b=0.1)
    began = time.monotonic()
    assert asked(grid, "a", "b", timeout=600) == {"a": "good", "b": "good"}
    assert time.monotonic() - began < 200


def test_without_names_all_that_are_online_are_asked():
    assert asked(Grid(a=0.0, b=0.0, late=60.0), timeout=30) == {"a": "good", "b": "good"}


@pytest.fixture
def fleet(tmp_path, migrated):
    return folders.made(tmp_path / "fleet", migrated, "abc").root


def test_devices_of_a_tag_are_asked_beside_those_that_are_named(fleet, run, monkeypatch):
    @contextlib.contextmanager
    def opened(*_, **__):
        yield Grid(a=0.0, b=0.0, c=0.0)

    monkeypatch.setattr("server.fleet.grid.open_grid", opened)
    for words, asked_ in ((("--tag", "beta"), "a"), (("c", "--tag", "beta"), "ac"), ((), "abc")):
        code, out, _ = run("device", "ping", *words, "--fleet", str(fleet), "--format", "json")
        assert (code, "".join(row["device"] for row in json.loads(out))) == (0, asked_)
    assert run("device", "ping", "--tag", "none", "--fleet", str(fleet))[0] == 3


def test_nobody_there_is_an_error_that_says_why():
    for names in ((), ("a",)):
        with pytest.raises(NotFoundError, match="is its daemon running"):
            asked(Grid(a=60.0), *names, timeout=0.1)
    with pytest.raises(NotFoundError, match="a is revoked"):
        ping._asked(Grid(a=60.0), {"a": "revoked"}, 0.1)
