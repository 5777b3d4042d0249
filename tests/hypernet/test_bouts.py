"""The scan against forward–backward written as a loop, one window at a time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hypernet.bouts import smooth


def slow(scores: np.ndarray, stay: float) -> np.ndarray:
    """Rabiner's recursions in float64, scaled at every window."""
    likely = np.exp(scores - scores.max(1, keepdims=True)).astype(np.float64)
    windows, classes = likely.shape
    step = stay * np.eye(classes) + (1 - stay) / classes
    ahead, behind = np.empty_like(likely), np.ones_like(likely)
    before = np.full(classes, 1 / classes)
    for t in range(windows):
        ahead[t] = before @ step * likely[t]
        before = ahead[t] = ahead[t] / ahead[t].sum()
    for t in range(windows - 2, -1, -1):
        behind[t] = step @ (likely[t + 1] * behind[t + 1])
        behind[t] /= behind[t].sum()
    both = ahead * behind
    return both / both.sum(1, keepdims=True)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 6),
    st.sampled_from([0.0, 0.5, 0.95, 0.999]),
    st.sampled_from([0.1, 3.0, 20.0]),
    st.integers(0, 10_000),
)
def test_the_scan_equals_the_loop(windows, classes, stay, scale, seed):
    scores = scale * np.random.default_rng(seed).standard_normal((windows, classes))
    found = smooth(torch.from_numpy(scores).float(), torch.tensor(stay))
    np.testing.assert_allclose(found.numpy(), slow(scores, stay), rtol=1e-3, atol=2e-5)


def test_a_long_stream_is_exact_to_its_end():
    scores = 4 * np.random.default_rng(0).standard_normal((2048, 3))
    found = smooth(torch.from_numpy(scores).float(), torch.tensor(0.9999))
    np.testing.assert_allclose(found.numpy(), slow(scores, 0.9999), rtol=1e-2, atol=1e-4)


def test_a_forbidden_class_stays_forbidden_and_its_neighbours_hear_of_it():
    scores = torch.zeros(9, 3)
    scores[4] = torch.tensor([-1e4, 0.0, -1e4])
    found = smooth(scores, torch.tensor(0.95))
    np.testing.assert_allclose(found[4].numpy(), [0, 1, 0], atol=1e-7)
    assert found[3, 1] == pytest.approx(float(found[5, 1]))
    assert 1 > found[3, 1] > found[2, 1] > found[0, 1] > 1 / 3


def test_windows_stand_alone_where_nothing_stays():
    scores = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(smooth(scores, torch.tensor(0.0)), scores.softmax(1))
