"""What is told of a run."""

from io import StringIO

import pytest
from rich.console import Console

from server.outcome import Outcome, RoundRecord
from simulations import progress as progresses
from simulations.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 100.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(progresses, "time", clock)
    return clock


@pytest.fixture
def progress(clock):
    return Progress(Console(file=StringIO(), width=60), every=0)


def record(number, score=None, failures=0, cohort=4, loss=0.5):
    return RoundRecord(number, cohort, loss, failures, 10, 5, 1.0, score)


def said(progress):
    return progress.console.file.getvalue().splitlines()


def test_a_round_is_one_line_however_narrow_the_console(progress, clock):
    progress.begin("fedavg", 10)
    clock.now += 2
    progress.round(record(1, failures=1))
    (line,) = said(progress)
    assert line == (
        "fedavg: round 1/10  cohort 4  1 left out  loss 0.500  macro-F1 –  1.5 updates/s  0:18 left"
    )


def test_a_round_that_nobody_learned_in_has_no_loss(progress):
    progress.begin("functional-memory", 2)
    progress.round(record(1, loss=float("nan")))
    assert "loss –  " in said(progress)[-1]


def test_updates_of_evaluated_rounds_count_and_the_last_told_twice_counts_once(progress, clock):
    progress.begin("fedavg", 2)
    clock.now += 4
    progress.round(record(1, score=0.25))
    assert "1.0 updates/s" in said(progress)[-1]
    assert "macro-F1 0.250" in said(progress)[-1]
    progress.round(record(2))
    assert "2.0 updates/s" in said(progress)[-1]
    progress.round(record(2, score=0.5))
    assert "2.0 updates/s" in said(progress)[-1]
    assert "0:00 left" in said(progress)[-1]


def test_a_last_round_does_not_carry_the_figure_of_the_one_before(progress, clock):
    progress.begin("fedavg", 2)
    progress.round(record(1, score=0.25))
    progress.round(record(2))
    assert "macro-F1 –" in said(progress)[-1]
    progress.round(record(2, score=0.5))
    assert "macro-F1 0.500" in said(progress)[-1]


def test_time_left_of_a_resumed_run_is_by_its_own_rounds(progress, clock):
    progress.begin("fedavg", 100)
    clock.now += 2
    progress.round(record(91))
    assert "0:18 left" in said(progress)[-1]


def test_the_next_strategy_starts_at_nothing(progress, clock):
    progress.begin("fedavg", 1)
    clock.now += 1
    progress.round(record(1, score=0.5))
    progress.begin("ditto", 2)
    clock.now += 1
    progress.round(record(1))
    assert "macro-F1 –  4.0 updates/s  0:01 left" in said(progress)[-1]


def test_lines_come_now_and_then_and_the_end_always(clock):
    progress = Progress(Console(file=StringIO(), width=60), every=10)
    progress.begin("fedavg", 30)
    for number in range(1, 31):
        clock.now += 1
        progress.round(record(number))
    progress.end(Outcome("fedavg", wall_seconds=30))
    assert len(said(progress)) == 3 + 1
    assert said(progress)[-1] == "fedavg: macro-F1 – after 30 rounds, 30 s"


def test_no_rounds_at_all(progress):
    progress.begin("source", 0)
    progress.round(RoundRecord(0, 0, float("nan"), 0, 0, 0, 0.0, 0.75))
    progress.end(Outcome("source", wall_seconds=3))
    assert said(progress) == ["source: macro-F1 0.750 after 0 rounds, 3 s"]


def test_on_a_terminal_a_bar_and_no_lines(clock):
    console = Console(file=StringIO(), width=120, force_terminal=True)
    with Progress(console, every=0) as progress:
        progress.begin("fedavg", 2)
        progress.round(record(1))
        progress.round(record(2, score=0.5))
        progress.end(Outcome("fedavg", wall_seconds=3))
    text = console.file.getvalue()
    assert "2/2 rounds" in text
    assert "macro-F1 0.500  3 s" in text
    assert "fedavg: round" not in text


def test_notes_are_one_line_and_never_markup(progress):
    progress.note("[bold]Ann[/bold] " + "x" * 200)
    assert said(progress) == ["[bold]Ann[/bold] " + "x" * 200]
