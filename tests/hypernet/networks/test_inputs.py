import pytest
import torch

from hypernet.networks import InputSpec

SPEC = InputSpec(7, 5, ((0, 1, 2), (2, 4)))


def test_expand_appends_lengths_of_groups():
    x = torch.randn(3, 7, 5)
    features = SPEC.expand(x)
    assert features.shape == (3, 7, SPEC.features)
    assert SPEC.features == 7
    assert torch.equal(features[..., :5], x)
    torch.testing.assert_close(features[..., 5], x[..., :3].norm(dim=-1))
    torch.testing.assert_close(features[..., 6], x[..., [2, 4]].norm(dim=-1))


def test_without_groups_nothing_is_appended():
    x = torch.randn(3, 7, 5)
    spec = InputSpec(7, 5)
    assert spec.features == 5
    assert torch.equal(spec.expand(x), x)


@pytest.mark.parametrize("group", [(0, 1, 2), (3,), (4, 2, 0), (0, 2)])
def test_a_group_need_not_be_consecutive(group):
    x = torch.randn(2, 7, 5)
    features = InputSpec(7, 5, (group,)).expand(x)
    torch.testing.assert_close(features[..., 5], x[..., list(group)].norm(dim=-1))


def test_own_statistics_standardise_every_feature():
    x = torch.randn(50, 7, 5) * torch.tensor([0.1, 1, 10, 100, 3]) + 5
    normal = SPEC.normalise(x, *SPEC.statistics(x))
    assert normal.shape == (50, 7, 7)
    torch.testing.assert_close(normal.mean((0, 2)), torch.zeros(7), rtol=0, atol=1e-4)
    torch.testing.assert_close(normal.std((0, 2), correction=0), torch.ones(7), rtol=0, atol=1e-4)
    mean, deviation = SPEC.statistics(x)
    first = (x[3, 2, 1] - mean[1]) / (deviation[1] + 1e-6)
    torch.testing.assert_close(normal[3, 1, 2], first)


def test_a_person_with_other_units_looks_the_same():
    """A unit changes channels of one group alike; magnitudes scale with it."""
    x = torch.randn(20, 7, 5) + 1
    one, two = (SPEC.normalise(y, *SPEC.statistics(y)) for y in (x, 9.81 * x))
    torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)


def test_a_channel_that_never_moves_stays_at_0():
    x = torch.randn(4, 7, 5)
    x[..., 3] = 2.5
    normal = SPEC.normalise(x, *SPEC.statistics(x))
    assert torch.isfinite(normal).all()
    assert not normal[:, 3].any()
