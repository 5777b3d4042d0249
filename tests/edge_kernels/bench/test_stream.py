"""The floor."""

import pytest

from edge_kernels.bench.stream import stream


@pytest.mark.parametrize("bytes_", [1, 300, 1 << 20])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_size_is_read_by_any_number_of_threads(bytes_, threads):
    assert 0 < stream(bytes_, threads)(3) < 1e6


def test_more_bytes_take_longer():
    assert stream(1 << 24, 1)(5) > stream(1 << 16, 1)(5)


@pytest.mark.parametrize(("bytes_", "threads"), [(0, 1), (64, 0), (1 << 41, 1)])
def test_nonsense_is_refused(bytes_, threads):
    with pytest.raises(RuntimeError, match="floor"):
        stream(bytes_, threads)(1)
