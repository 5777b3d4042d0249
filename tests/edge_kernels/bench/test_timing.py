"""Turns, with contenders that keep their own clock."""

import pytest

from edge_kernels.bench.timing import Effort, Timing, take_turns, turn_of


class Contender:
    """Takes `microseconds` a call, and remembers who else was called when."""

    def __init__(self, name, microseconds, diary):
        self.name, self.microseconds, self.diary = name, microseconds, diary

    def __call__(self, calls):
        self.diary.append((self.name, calls))
        return self.microseconds


def test_contenders_alternate_and_warm_up():
    diary = []
    contenders = {"a": Contender("a", 500.0, diary), "b": Contender("b", 2500.0, diary)}
    take_turns(contenders, Effort(rounds=2, turn_seconds=0.005, most_calls=100))
    rounds = diary[-8:]
    assert rounds == 2 * [("a", 6), ("a", 10), ("b", 2), ("b", 2)]


@pytest.mark.parametrize(("microseconds", "calls"), [(1.0, 30), (1000.0, 3), (1e6, 1)])
def test_a_turn_is_as_long_as_asked_but_for_the_smallest_and_the_largest(microseconds, calls):
    diary = []
    contender = {"a": Contender("a", microseconds, diary)}
    take_turns(contender, Effort(rounds=1, turn_seconds=0.003, most_calls=30))
    assert diary[-1] == ("a", calls)


def test_median_and_quartiles():
    assert Timing.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Timing(3.0, (2.0, 4.0))
    assert Timing.of([7.0]) == Timing(7.0, (7.0, 7.0))


def test_an_interruption_spoils_one_call(monkeypatch):
    clock = iter([0, 1000, 2000, 3000, 4000, 904_000])
    monkeypatch.setattr("time.perf_counter_ns", lambda: next(clock))
    assert turn_of(lambda: None)(3) == 1.0
