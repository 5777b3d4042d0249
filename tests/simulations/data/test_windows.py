import numpy as np
import pytest

from simulations.data.windows import Stream, cut, step_of


@pytest.mark.parametrize(
    ("length", "overlap", "step"), [(100, 0.5, 50), (100, 0, 100), (3, 0.99, 1), (128, 0.75, 32)]
)
def test_step(length: int, overlap: float, step: int) -> None:
    assert step_of(length, overlap) == step


def test_cut_leaves_the_rest_out() -> None:
    streams = [
        Stream(np.arange(22.0).reshape(11, 2), person=3, label=1),
        Stream(np.zeros((3, 2)), person=4, label=0),
        Stream(np.ones((4, 2)), person=5, label=2),
    ]
    windows = cut(streams, 4, 0.5)
    assert windows.x.dtype == np.float32
    assert windows.start.tolist() == [0, 2, 4, 6, 0]
    assert windows.stream.tolist() == [0, 0, 0, 0, 2]
    assert windows.person.tolist() == [3, 3, 3, 3, 5]
    assert windows.y.tolist() == [1, 1, 1, 1, 2]
    assert np.array_equal(windows.x[1], streams[0].signal[2:6])
