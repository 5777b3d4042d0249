from dataclasses import replace

import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession

from hypernet.export import statistics_graph
from hypernet.networks import InputSpec
from hypernet.sources import Sources
from hypernet.virtual_users import STILL, VirtualUsers

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


OFFSETS = {"gravity": (9.81, 0.1), "barometer": (1013.25, 0.3), "adc": (1e6, 1.0)}


@pytest.mark.parametrize("kind", OFFSETS)
def test_a_device_measures_channels_of_a_large_offset_as_float64_does(kind):
    offset, deviation = OFFSETS[kind]
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(800, 150, 2)) * deviation + offset).astype(np.float32)
    spec = InputSpec(150, 2)
    session = InferenceSession(statistics_graph(spec), providers=["CPUExecutionProvider"])
    wide = x.astype(np.float64)
    mean, spread = wide.mean((0, 1)), wide.std((0, 1))
    resolution = np.spacing(np.float32(offset)) / deviation
    for found in (
        session.run(None, {"windows": x}),
        [each.numpy() for each in spec.statistics(torch.from_numpy(x))],
    ):
        assert (np.abs(found[0] - mean) / deviation).max() < max(resolution, 1e-4)
        np.testing.assert_allclose(found[1], spread, rtol=1e-3)


@pytest.mark.parametrize("value", [2.5, 9.81, 1013.25, 4.7e-5, 0.0])
def test_a_device_finds_a_channel_that_never_moves_still(value):
    x = np.full((801, 150, 3), value, np.float32)
    x[..., 2] = np.random.default_rng(0).normal(size=(801, 150))
    spec = InputSpec(150, 3, ((0, 1),))
    session = InferenceSession(statistics_graph(spec), providers=["CPUExecutionProvider"])
    mean, deviation = map(torch.from_numpy, session.run(None, {"windows": x}))
    normal = spec.normalise(torch.from_numpy(x), mean, deviation)
    assert not normal[:, :2].any()
    assert normal[:, 3].abs().max() < 1  # its length may be rounded otherwise
    assert normal[:, 2].std() == pytest.approx(1, rel=1e-2)


@pytest.mark.parametrize("unit", [1e-9, 1e-6, 1.0, 1e6])
def test_a_unit_does_not_matter_however_small(unit):
    """A magnetometer in tesla moves by a millionth."""
    x = torch.randn(20, 7, 5) + 1
    spec = InputSpec(7, 5, ((0, 1, 2),))
    one, two = (spec.normalise(y, *spec.statistics(y)) for y in (x, unit * x))
    torch.testing.assert_close(one, two, rtol=1e-2, atol=1e-2)


def test_a_still_vector_that_is_turned_does_not_explode():
    """Turned, an axis of it may be near 0, with the whole vector's rounding."""
    spec = InputSpec(50, 3, ((0, 1, 2),))
    x = torch.tensor([9.0, 3.0, -2.0]).expand(40, 50, 3)
    sources = Sources(spec, [x], [torch.zeros(40, dtype=torch.long)], 1)
    turning = replace(STILL, flip=1, rotate=1, degrees=180)
    users = VirtualUsers(sources, turning, torch.Generator().manual_seed(0))
    for _ in range(20):
        assert users.draw(8, 4)[0].abs().max() < 10
        assert users.whole(0, 40)[0].abs().max() < 10


def test_a_group_without_channels_is_none():
    spec = InputSpec(7, 5, ((), (0, 1, 2), ()))
    assert spec == InputSpec(7, 5, ((0, 1, 2),))
    assert spec.features == 6
    assert spec.expand(torch.randn(2, 7, 5)).shape == (2, 7, 6)


def test_a_length_turns_where_it_holds_a_part_of_a_vector():
    groups = ((0, 1, 2), (3, 4, 5), (0,), (6,), (6, 7), (2, 6), (0, 1, 2, 6), (0, 1, 3))
    spec = InputSpec(7, 8, groups[:-1])
    assert spec.vectors == groups[:2]
    assert [spec.turns(g) for g in groups] == [False, False, True, False, False, True, False, True]


def test_a_channel_that_never_moves_stays_at_0():
    x = torch.randn(4, 7, 5)
    x[..., 3] = 2.5
    normal = SPEC.normalise(x, *SPEC.statistics(x))
    assert torch.isfinite(normal).all()
    assert not normal[:, 3].any()
