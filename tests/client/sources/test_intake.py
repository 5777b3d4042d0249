import logging
from array import array

import pytest

from client.ring import mapped
from client.sources.base import SourceSettings, Window
from client.sources.intake import Intake


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def intake(tmp_path, clock):
    made = []

    def make(**changed):
        settings = SourceSettings(**{"time": 2, "channels": 2, "classes": 3} | changed)
        made.append(Intake(settings, tmp_path, clock))
        return made[-1]

    yield make
    for each in made:
        each.close()


def window(first=0.0, label=-1, shape=(2, 2), values=None, **more):
    return Window(array("f", values or [first, 1, 2, 3]), shape, label, **more)


def test_windows_are_kept_with_their_labels(intake, tmp_path):
    chosen = intake()
    assert [chosen.give(window(n, n)) for n in range(3)] == ["", "", ""]
    chosen.give(window(9, 2, test=True))
    person = mapped(tmp_path)
    assert person.train[:, 0, 0].tolist() == [0, 1, 2]
    assert person.labels.tolist() == [0, 1, 2]
    assert person.test[:, 0, 0].tolist() == [9]
    assert person.test_labels.tolist() == [2]
    assert (chosen.given(test=False), chosen.given(test=True)) == (3, 1)


def test_what_was_refused_was_given_in_a_later_life_too(intake, monkeypatch):
    chosen = intake()
    chosen.give(window())
    for test in (False, False, True):
        chosen.give(window(float("nan"), test=test))
    assert (chosen.given(test=False), chosen.given(test=True)) == (3, 1)
    monkeypatch.setattr(chosen, "_kept", lambda _: ("disk", "full"))
    chosen.give(window())
    assert chosen.given(test=False) == 3, "it may be given again"
    chosen.close()
    again = intake()
    assert (again.given(test=False), again.given(test=True)) == (3, 1)
    again.give(window(float("nan")))
    assert again.given(test=False) == 4


@pytest.mark.parametrize(
    ("odd", "kind"),
    [
        ({"shape": (2, 3)}, "shape"),
        ({"shape": (4,)}, "shape"),
        ({"values": [1, 2, 3]}, "shape"),
        ({"first": float("nan")}, "not finite"),
        ({"first": float("inf")}, "not finite"),
        ({"first": 1e300}, "not finite"),
    ],
)
def test_what_is_no_window_is_dropped_counted_and_said_once(intake, caplog, odd, kind):
    chosen = intake()
    with caplog.at_level(logging.WARNING):
        assert [chosen.give(window(**odd)) for _ in range(5)] == [kind] * 5
    assert chosen.troubles == {kind: 5}
    assert [kind in record.message for record in caplog.records] == [True]
    assert chosen.status()["held"] == 0
    assert chosen.give(window()) == ""


@pytest.mark.parametrize("label", [3, -2, 10**30])
def test_a_wrong_label_is_dropped_and_its_window_kept(intake, tmp_path, label):
    chosen = intake()
    assert chosen.give(window(label=label)) == ""
    assert chosen.troubles == {"label": 1}
    assert mapped(tmp_path).labels.tolist() == [-1]


def test_windows_that_come_too_fast_are_dropped(intake, clock):
    chosen = intake(max_per_second=2.0)
    assert [chosen.give(window()) for _ in range(6)] == [""] * 4 + ["too fast"] * 2
    clock.now = 1.0
    assert [chosen.give(window()) for _ in range(3)] == ["", "", "too fast"]
    clock.now = 1000.0
    assert [chosen.give(window()) for _ in range(5)] == [""] * 4 + ["too fast"]


def test_a_value_too_large_for_float16(intake):
    chosen = intake(dtype="float16")
    assert chosen.give(window(1e6)) == "too large"
    assert chosen.give(window(6e4)) == ""


def test_a_full_disk_is_counted_and_passes(intake, monkeypatch):
    chosen = intake()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.pwrite", full)
        assert chosen.give(window()) == "disk"
    assert chosen.give(window()) == ""
    assert chosen.troubles == {"disk": 1}


def test_stretches_of_labelled_windows_are_held_out(intake, tmp_path):
    chosen = intake(test_every=3, classes=None)
    for number in range(200):
        chosen.give(window(number, number))
        chosen.give(window(-1))
    person = mapped(tmp_path)
    held_out = [n for n in range(200) if n // 32 % 3 == 2]
    assert person.test_labels.tolist() == held_out
    assert sorted(person.labels[person.labelled]) == sorted(set(range(200)) - set(held_out))


def test_status_is_for_people(intake):
    chosen = intake()
    chosen.give(window())
    chosen.trouble("line", "odd")
    status = chosen.status()
    assert status["last_at"] > 0
    assert {key: status[key] for key in status if key != "last_at"} == {
        "held": 1,
        "held_for_test": 0,
        "ever": 1,
        "troubles": {"line": 1},
        "last_trouble": "line: odd",
    }


def test_the_newest_window_is_of_whichever_part_and_is_remembered(intake, tmp_path):
    chosen = intake(test_every=2)
    assert chosen.status()["last_at"] is None
    for number in range(40):  # the last eight are held out
        chosen.give(window(number, 1))
    at = chosen.status()["last_at"]
    found, when = mapped(tmp_path).newest
    assert (found[0, 0], when) == (39, at)
    chosen.give(window(40))
    assert mapped(tmp_path).newest[0][0, 0] == 40
    last = chosen.status()["last_at"]
    chosen.close()
    assert intake().status()["last_at"] == last > at


def test_the_limit_holds_for_both_parts(intake, tmp_path):
    chosen = intake(limit_bytes=1 << 20, time=50)
    for number in range(4000):
        assert chosen.give(window(values=[number] * 100, shape=(50, 2), test=number % 2 == 0)) == ""
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1 << 20
    assert chosen.status()["ever"] == 4000
    assert chosen.status()["held"] < 2000
