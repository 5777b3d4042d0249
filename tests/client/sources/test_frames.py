import pytest

from client.sources.frames import Framer, Silence


def cut(framer, samples, label=lambda n: -1):
    found = (framer.add([n, -n], label(n)) for n in samples)
    return [window for window in found if window]


@pytest.mark.parametrize(
    ("step", "starts"), [(4, [0, 4, 8]), (2, [0, 2, 4, 6, 8]), (1, range(9)), (6, [0, 6])]
)
def test_windows_start_a_step_apart(step, starts):
    windows = cut(Framer(4, 2, step), range(12))
    assert [list(window.values[::2]) for window in windows] == [
        [start, start + 1, start + 2, start + 3] for start in starts
    ]
    assert all(window.shape == (4, 2) for window in windows)


def test_a_window_has_a_label_where_its_samples_agree():
    windows = cut(Framer(4, 2, 4), range(12), label=lambda n: 1 if n < 6 else 2)
    assert [window.label for window in windows] == [1, -1, 2]


def test_a_break_starts_a_window():
    framer = Framer(4, 2, 4)
    cut(framer, range(3))
    framer.reset()
    (window,) = cut(framer, range(10, 15))
    assert window.values[0] == 10


def test_a_sample_of_another_width_is_refused():
    with pytest.raises(ValueError, match="a sample of 3 values; expected 2"):
        Framer(4, 2, 4).add([1, 2, 3])


@pytest.mark.parametrize(("longest", "told"), [(5, [0, 0, 3600, 0]), (None, [0, 0, 0, 0])])
def test_a_silence_is_told_once_it_ends(longest, told):
    times = iter([0, 1, 6, 3606, 3607])
    silence = Silence(longest, lambda: next(times))
    assert [silence.ended() for _ in told] == told
