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


def test_lengths_that_turn_are_measured_on_turned_windows():
    """Beside a vector, its rectified axes: what one axis is has changed when the sensor turned."""
    spec = InputSpec(20, 4, ((0, 1, 2), (0,), (1,), (3,), (2, 3)))
    x = torch.randn(50, 20, 4) * torch.tensor([3.0, 1, 0.3, 2]) + torch.tensor([5.0, 0, 0, 1])
    moments = Moments.of(Sources(spec, [x, 2 * x], [torch.zeros(50, dtype=torch.long)] * 2, 1))
    who = torch.tensor([1, 0, 1])
    turn = person_turns(3, spec, ALWAYS, torch.Generator().manual_seed(0))
    for _ in range(2):  # nothing is written to what is kept
        mean, deviation = moments.turned(who, turn)
        for drawn, person in enumerate(who.tolist()):
            measured = spec.statistics((1 + person) * x @ turn[drawn].T)
            torch.testing.assert_close(mean[drawn], measured[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(deviation[drawn], measured[1], rtol=1e-4, atol=1e-5)


def test_vectors_alone_are_never_measured_anew(sources):
    assert Moments.of(sources).samples == ()


def test_classes_that_no_source_has(sources):
    assert sources.lacking == ()
    known = [y.clamp(max=1) for y in sources.y]
    assert Sources(sources.spec, sources.x, known, 4).lacking == (2, 3)


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
