from dataclasses import replace
from math import cos, radians

import pytest
import torch

from hypernet.networks import InputSpec
from hypernet.virtual_users import (
    STILL,
    Turning,
    VirtualUsers,
    person_turns,
    rotations,
    warp_time,
    window_turns,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def determinants(matrices):
    return torch.linalg.det(matrices)


@pytest.mark.parametrize("degrees", [0.0, 15.0, 45.0, 180.0])
def test_rotations_are_rotations_of_at_most_so_many_degrees(degrees):
    made = rotations(200, degrees, seeded())
    eye = torch.eye(3).expand(200, -1, -1)
    torch.testing.assert_close(made @ made.transpose(1, 2), eye, rtol=0, atol=1e-5)
    torch.testing.assert_close(determinants(made), torch.ones(200), rtol=0, atol=1e-5)
    cosine = (made.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2
    assert cosine.min() >= cos(radians(degrees)) - 1e-5
    if degrees == 0:
        assert torch.equal(made, eye)
    else:
        assert cosine.min() < cos(radians(0.9 * degrees)), "none comes near the limit"


SPEC = InputSpec(10, 8, ((0, 1, 2), (3, 4, 5)))


def test_a_mirrored_accelerometer_turns_the_gyroscope_as_an_axial_vector():
    turns = person_turns(200, SPEC, Turning(flip=1, rotate=0.5), seeded())
    polar, axial = turns[:, :3, :3], turns[:, 3:6, 3:6]
    torch.testing.assert_close(axial, determinants(polar)[:, None, None] * polar)
    assert set(determinants(polar).round().tolist()) == {-1.0, 1.0}
    torch.testing.assert_close(determinants(axial), torch.ones(200))  # axial: mirrors cancel


def test_the_gyroscope_measures_what_the_turned_motion_says():
    """ω × r turns with the sensor: (Mω)·det M × (Mr) = M(ω × r), of mirrors too."""
    turns = person_turns(50, SPEC, Turning(flip=1, rotate=1, degrees=180), seeded(3))
    polar, axial = turns[:, :3, :3], turns[:, 3:6, 3:6]
    spin, arm = torch.randn(50, 3, 1), torch.randn(50, 3, 1)
    turned = torch.linalg.cross((axial @ spin)[..., 0], (polar @ arm)[..., 0])
    expected = (polar @ torch.linalg.cross(spin[..., 0], arm[..., 0])[..., None])[..., 0]
    torch.testing.assert_close(turned, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", ["person", "window"])
def test_other_channels_stay_and_groups_do_not_mix(make):
    if make == "person":
        turns = person_turns(50, SPEC, Turning(flip=1, rotate=1), seeded())
    else:
        turns = window_turns(50, SPEC, 30.0, seeded())
    outside = turns.clone()
    outside[:, :3, :3] = outside[:, 3:6, 3:6] = torch.eye(3)
    assert torch.equal(outside, torch.eye(8).expand(50, -1, -1))
    eye = torch.eye(8).expand(50, -1, -1)
    torch.testing.assert_close(turns @ turns.transpose(1, 2), eye, rtol=0, atol=1e-5)


def test_the_first_group_of_three_is_the_accelerometer():
    spec = InputSpec(10, 8, ((6, 7), (3, 4, 5), (0, 1, 2)))
    turns = person_turns(100, spec, Turning(flip=1, rotate=0), seeded())
    assert set(determinants(turns[:, 3:6, 3:6]).round().tolist()) == {-1.0, 1.0}
    assert set(determinants(turns[:, :3, :3]).round().tolist()) == {1.0}


def test_flips_and_rotations_come_as_often_as_told():
    turns = person_turns(2000, SPEC, Turning(flip=0.5, rotate=0), seeded())
    flipped = (turns != torch.eye(8)).any((1, 2)).float().mean().item()
    assert flipped == pytest.approx(0.5 * 7 / 8, abs=0.04)  # one of 8 sign patterns is none
    turns = person_turns(2000, SPEC, Turning(flip=0, rotate=0.3), seeded())
    rotated = (turns != torch.eye(8)).any((1, 2)).float().mean().item()
    assert rotated == pytest.approx(0.3, abs=0.04)


def users(sources, turning, seed=0):
    return VirtualUsers(sources, turning, seeded(seed))


def rows_of(sources, x, who, windows):
    """The source window of each drawn one, where nothing but choosing was done."""
    normal = [sources.spec.normalise(p, *sources.spec.statistics(p)) for p in sources.x]
    for number, person in enumerate(who.tolist()):
        for window in x[number * windows : (number + 1) * windows]:
            distance = (normal[person] - window).abs().amax((1, 2))
            yield person, int(distance.argmin()), distance.min().item()


def test_still_users_are_the_sources_themselves(sources):
    x, y, who = users(sources, STILL).draw(3, 7)
    assert x.shape == (21, sources.spec.features, sources.spec.time)
    assert sorted(who.tolist()) == [0, 1, 2]
    rows = list(rows_of(sources, x, who, 7))
    assert max(distance for *_, distance in rows) < 1e-4
    assert y.tolist() == [int(sources.y[person][row]) for person, row, _ in rows]
    assert len({row for _, row, _ in rows}) > 7


def test_a_turned_users_inputs_are_normalised_as_if_worn_so(sources):
    """Drawn with turns only: the inputs are those of a person really wearing the sensor so."""
    turning = replace(STILL, flip=1, rotate=1, degrees=180)
    x, _, who = users(sources, turning, 4).draw(2, 5)
    generator = seeded(4)
    again = VirtualUsers(sources, turning, generator)
    people = again._persons(2)
    raw, _ = again._windows(people, 5)
    turn = person_turns(2, sources.spec, turning, generator)
    assert torch.equal(people, who)
    for number, person in enumerate(who.tolist()):
        worn = sources.x[person] @ turn[number].T
        expected = sources.spec.normalise(
            raw[number] @ turn[number].T, *sources.spec.statistics(worn)
        )
        torch.testing.assert_close(x[number * 5 : number * 5 + 5], expected, rtol=1e-3, atol=1e-3)


def test_magnitudes_do_not_feel_turns(sources):
    turning = replace(STILL, flip=1, rotate=1, degrees=180, wobble=90)
    turned, _, who = users(sources, turning).draw(3, 6)
    still, _, same = users(sources, STILL).draw(3, 6)
    assert torch.equal(who, same)
    torch.testing.assert_close(turned[:, 6:], still[:, 6:], rtol=1e-3, atol=1e-3)
    assert (turned[:, :6] - still[:, :6]).abs().mean() > 0.1


def test_one_seed_gives_one_batch(sources):
    state = torch.random.get_rng_state()
    first, again, other = (users(sources, Turning(), seed).draw(4, 6) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator was used"


def test_more_users_than_sources_repeat_some(sources):
    x, y, who = users(sources, Turning()).draw(9, 2)
    assert x.shape[0] == y.shape[0] == 18
    assert who.shape == (9,)
    assert set(who.tolist()) <= {0, 1, 2}
    assert torch.isfinite(x).all()


def test_noise_and_stretch_change_values_by_what_they_say(sources):
    still = users(sources, STILL).draw(3, 8)[0]
    noisy = users(sources, replace(STILL, noise=0.1)).draw(3, 8)[0]
    assert (noisy - still).std().item() == pytest.approx(0.1, rel=0.1)
    stretched = users(sources, replace(STILL, stretch=0.2)).draw(3, 8)[0]
    ratio = (stretched / still)[still.abs() > 0.1]
    assert 0.79 < ratio.min() < 0.95
    assert 1.05 < ratio.max() < 1.21


def ramp(count, time=50):
    return torch.arange(float(time))[None, :, None].expand(count, -1, 2).clone()


def test_time_is_shifted_and_mirrored_at_the_ends():
    x = ramp(100)
    torch.testing.assert_close(warp_time(x, STILL, seeded()), x, atol=2e-3, rtol=0)
    shifted = warp_time(x, replace(STILL, shift=5), seeded())
    middle = shifted[:, 10:40] - x[:, 10:40]
    assert middle.std(dim=1).max() < 1e-3, "one shift a window"
    assert 3 < middle.abs().max() <= 5
    assert shifted.min() >= 0
    assert shifted.max() <= 49


@pytest.mark.parametrize("time", [1, 2, 3, 16_385, 44_100])
def test_windows_of_any_length_are_warped_within_themselves(time):
    x = ramp(16, time)
    for turning in (STILL, Turning()):
        warped = warp_time(x, turning, seeded())
        assert warped.shape == x.shape
        assert warped.min() >= 0
        assert warped.max() <= time - 1


def test_time_is_stretched_about_the_middle():
    x = ramp(200, 51)
    slopes = warp_time(x, replace(STILL, warp=0.2), seeded())[:, 11:40].diff(dim=1)[..., 0]
    assert slopes.std(dim=1).max() < 1e-3
    assert 0.79 < slopes.min() < 0.85
    assert 1.15 < slopes.max() < 1.21
    torch.testing.assert_close(
        warp_time(x, replace(STILL, warp=0.2), seeded())[:, 25, 0], torch.full((200,), 25.0)
    )


def test_a_whole_virtual_user_is_its_source_in_the_order_of_time(sources):
    x, y = VirtualUsers(sources, STILL, seeded()).whole(1, 30)
    assert torch.equal(y, sources.y[1])
    wanted = sources.spec.normalise(sources.x[1], *sources.spec.statistics(sources.x[1]))
    torch.testing.assert_close(x, wanted, rtol=1e-4, atol=1e-4)
    few, labels = VirtualUsers(sources, Turning(), seeded()).whole(1, 10)
    assert torch.equal(labels, sources.y[1][::3])
    assert few.shape == (10, *x.shape[1:])
    assert not torch.allclose(few, x[::3], atol=0.01)
    assert torch.isfinite(few).all()
