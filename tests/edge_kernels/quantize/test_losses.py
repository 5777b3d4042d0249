import pytest
import torch

from edge_kernels.quantize.losses import divergence, error


def test_the_error_is_a_share_of_the_square():
    right = torch.tensor([[3.0, 4.0]])
    assert error(right, right).item() == 0
    assert error(right + torch.tensor([[1.0, 0.0]]), right).item() == pytest.approx(1 / 25)


def test_the_divergence_is_that_of_softened_odds():
    right, found = torch.tensor([[0.0, 4.0]]), torch.tensor([[4.0, 0.0]])
    assert divergence(right, right).item() == 0
    assert divergence(right + 5, right).item() == pytest.approx(0, abs=1e-6)  # the same odds
    odds = 1 / (1 + torch.e)  # of the first class: exp(0 / 4) against exp(4 / 4)
    assert divergence(found, right).item() == pytest.approx(1 - 2 * odds, abs=1e-6)
