"""What is read back from a condition."""

import pytest
import torch

from hypernet.condition import BY_CLASS, CONDITIONERS, shares


@pytest.mark.parametrize("kind", BY_CLASS)
def test_the_classes_shares_are_read_back(kind):
    torch.manual_seed(0)
    posteriors = torch.eye(4)[torch.tensor([0, 0, 0, 1, 1, 3, 3, 3])]
    conditioner = CONDITIONERS[kind]([5, 6], 4, 0.0)
    told = conditioner([torch.randn(8, 5), torch.randn(8, 6)], posteriors)
    assert told.shape == (conditioner.tokens, conditioner.channels)
    torch.testing.assert_close(shares(told), torch.tensor([3, 2, 0, 3]) / 8, rtol=0, atol=1e-5)
