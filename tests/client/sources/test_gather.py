import threading
from array import array
from typing import ClassVar

import pytest

from client.ring import RingError
from client.sources import Gatherer, SourceSettings, Window, gather, source_class
from schemas.base import ConfigError

SETTINGS = {"time": 2, "channels": 1}


class Source:
    """Does what it is told to, run by run."""

    Settings: ClassVar = SourceSettings
    runs: ClassVar[list] = []

    def __init__(self, settings):
        self.settings = settings

    def run(self, sink, stop):
        if not self.runs:
            stop.wait()
            return
        self.runs.pop(0)(sink)


def give(sink):
    assert sink.give(Window(array("f", [1, 2]), (2, 1))) == ""


def fail(error):
    def run(sink):
        give(sink)
        raise error

    return run


@pytest.fixture
def gatherer(tmp_path, monkeypatch):
    monkeypatch.setattr(gather, "_FIRST_PAUSE", 0.01)
    gatherer = Gatherer(Source, SETTINGS, tmp_path)
    yield gatherer
    gatherer.stop()


def test_a_source_that_ends_is_done(gatherer, until):
    Source.runs[:] = [give]
    gatherer.start()
    until(lambda: not gatherer.status()["gathering"])
    assert gatherer.status()["held"] == 1


def test_a_source_that_breaks_is_run_again(gatherer, until, caplog):
    Source.runs[:] = [fail(OSError("the pipe is gone")), fail(KeyError("a bug")), give]
    gatherer.start()
    until(lambda: not gatherer.status()["gathering"])
    assert gatherer.status()["held"] == 3
    assert gatherer.status()["troubles"] == {"source": 2}
    assert "the sensor source broke" in caplog.text


def test_it_stops_and_may_be_taken_up(gatherer, tmp_path, until):
    gatherer.start()
    assert gatherer.status()["gathering"]
    gatherer.stop()
    assert not gatherer.status()["gathering"]
    again = Gatherer(Source, SETTINGS, tmp_path)
    again.stop()


def test_stopping_leaves_no_thread(gatherer):
    gatherer.start()
    gatherer.stop()
    assert "sensor" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "time: missing"),
        ({"time": 2, "channels": 1, "pth": 3}, "pth = 3: unknown key; allowed here: time"),
        ({"time": 2, "channels": 1, "dtype": "int8"}, "dtype = 'int8'"),
    ],
)
def test_wrong_settings_are_named(tmp_path, settings, said):
    with pytest.raises(ConfigError) as caught:
        Gatherer(Source, settings, tmp_path)
    assert f"windows.settings: {said}" in str(caught.value)


def test_windows_of_another_shape_on_disk(gatherer, tmp_path):
    gatherer.stop()
    with pytest.raises(RingError, match="holds windows of 2 x 1"):
        Gatherer(Source, {"time": 3, "channels": 1}, tmp_path)
    Gatherer(Source, SETTINGS, tmp_path).stop()


@pytest.fixture
def installed(tmp_path, monkeypatch):
    info = tmp_path / "extra-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: extra\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{gather.GROUP}]\nmine = client.sources.pipe:PipeSource\nbroken = client.nothing:X\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def test_a_source_is_found_by_name(installed):
    from client.sources.pipe import PipeSource

    assert source_class("mine") is PipeSource


def test_a_source_that_is_not_there(installed):
    with pytest.raises(
        ConfigError, match=r"windows.source: 'no': no such source; installed: .*min"
    ):
        source_class("no")
    with pytest.raises(ConfigError, match="'broken' cannot be loaded: No module"):
        source_class("broken")
