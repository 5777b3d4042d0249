import pytest
import torch

from hypernet.networks import InputSpec
from hypernet.sources import Moments, Sources
from hypernet.virtual_users import Turning, person_turns

ALWAYS = Turning(flip=1, rotate=1, degrees=180)


def test_unturned_moments_are_the_measured_statistics(sources):
    moments = Moments.of(sources)
    still = torch.eye(sources.spec.channels).expand(len(sources), -1, -1)
    mean, deviation = moments.turned(torch.arange(len(sources)), still)
    for person, x in enumerate(sources.x):
        measured = sources.spec.statistics(x)
        torch.testing.assert_close(mean[person], measured[0])
        torch.testing.assert_close(deviation[person], measured[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_turned_moments_are_those_measured_on_turned_windows(sources, seed):
    """Turn a person's windows for real, measure and normalise them: the same network inputs."""
    spec = sources.spec
    who = torch.tensor([2, 0, 1, 2])
    turn = person_turns(len(who), spec, ALWAYS, torch.Generator().manual_seed(seed))
    mean, deviation = Moments.of(sources).turned(who, turn)
    for drawn, person in enumerate(who.tolist()):
        really = torch.einsum("ij,wtj->wti", turn[drawn], sources.x[person])
        measured = spec.statistics(really)
        torch.testing.assert_close(mean[drawn], measured[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(deviation[drawn], measured[1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            spec.normalise(really, mean[drawn], deviation[drawn]),
            spec.normalise(really, *measured),
            rtol=1e-3,
            atol=1e-3,
        )


def test_a_constant_channel_has_deviation_0_and_not_nan():
    spec = InputSpec(4, 3, ((0, 1, 2),))
    x = torch.zeros(5, 4, 3)
    x[..., 0] = 3.0
    moments = Moments.of(Sources(spec, [x], [torch.zeros(5, dtype=torch.long)], 1))
    turn = person_turns(1, spec, ALWAYS, torch.Generator().manual_seed(0))
    _, deviation = moments.turned(torch.tensor([0]), turn)
    assert torch.isfinite(deviation).all()
    assert deviation.max() < 1e-3


def test_float16_windows_are_measured_in_float32(sources):
    halves = Sources(sources.spec, [x.half() for x in sources.x], sources.y, 3)
    assert Moments.of(halves).mean.dtype == torch.float32
