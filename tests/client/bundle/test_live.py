from array import array

import numpy as np
import pytest

from client import bundle
from client.bundle.live import LiveSink, live_settings
from client.bundle.predictor import NotFiniteError, Predictor
from client.sources.base import Window
from client.sources.replay import ReplaySource
from client.windows import PersonWindows
from schemas.base import ConfigError
from tests.client import small_models


@pytest.fixture
def predictor(tmp_path):
    bundle.write(tmp_path / "b", small_models.card(), small_models.codes())
    return Predictor(bundle.open(tmp_path / "b"))


class Heard:
    """A sink, and what it said."""

    def __init__(self, predictor, count=None):
        self.told, self.odd = [], []
        self.sink = LiveSink(
            predictor, count, lambda number, y: self.told.append((number, y)), self.odd.append
        )


@pytest.fixture
def folder(tmp_path):
    x, y = small_models.windows(7), np.zeros(7, np.int64)
    PersonWindows(x[:5], y[:5], x[5:], y[5:]).save(tmp_path / "ann")
    return tmp_path / "ann"


def test_each_window_of_a_source_is_predicted_as_of_a_file(predictor, folder):
    heard = Heard(predictor)
    settings = live_settings(ReplaySource, {"path": folder}, (40, 3))
    ReplaySource(settings).run(heard.sink, heard.sink.done)
    assert [number for number, _ in heard.told] == list(range(7))
    expected = predictor.logits(small_models.windows(7))
    np.testing.assert_allclose([y for _, y in heard.told], expected, rtol=1e-5, atol=1e-5)
    assert not heard.odd


def test_it_ends_after_so_many(predictor, folder):
    heard = Heard(predictor, count=3)
    settings = live_settings(ReplaySource, {"path": folder}, (40, 3))
    ReplaySource(settings).run(heard.sink, heard.sink.done)
    assert len(heard.told) == 3


def window(values, shape):
    return Window(array("f", values), shape)


def test_odd_windows_are_told_once_and_not_predicted(predictor):
    heard = Heard(predictor)
    bad = window([float("nan")] * 120, (40, 3))
    assert heard.sink.give(bad) == heard.sink.give(bad) == "not finite"
    assert heard.sink.give(window([0.0] * 120, (60, 2))) == "shape"
    assert heard.sink.give(window([0.0] * 119, (40, 3))) == "shape"
    assert heard.sink.troubles == {"not finite": 2, "shape": 2}
    assert len(heard.odd) == 2
    assert not heard.told


def test_a_glitch_of_the_sensor_does_not_end_it_and_a_bad_model_does(predictor):
    heard = Heard(predictor)
    glitch = window([3e38] * 120, (40, 3))
    assert heard.sink.give(glitch) == heard.sink.give(glitch) == "not finite"
    assert heard.odd == [
        "windows: not finite: the model made NaN or infinity of a window (said once)"
    ]
    assert heard.sink.give(window([0.5] * 120, (40, 3))) == ""
    assert [number for number, _ in heard.told] == [0]
    predictor.is_sound = lambda: False
    with pytest.raises(NotFiniteError):
        heard.sink.give(glitch)


def test_settings_of_other_windows(folder):
    with pytest.raises(ConfigError, match=r"windows of \(50, 3\).*the model takes \(40, 3\)"):
        live_settings(ReplaySource, {"path": folder, "time": 50}, (40, 3))
    with pytest.raises(ConfigError, match=r"pth = .*unknown key"):
        live_settings(ReplaySource, {"pth": folder}, (40, 3))
