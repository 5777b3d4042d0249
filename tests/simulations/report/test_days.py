"""What devices that live through days came to."""

from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from schemas.simulation import Simulation
from server.outcome import DayExchange, Outcome
from simulations.report import plots, summarise
from simulations.report.compare import days_table
from simulations.report.days import asked, by_day, ranges

GOOD, HALF = np.array([[4, 0], [0, 4]]), np.array([[4, 0], [4, 0]])
LIVES = {f"{who} day {day}": (who, day) for who in ("ann", "bob") for day in (6, 7, 11)}


@pytest.fixture
def outcome():
    names = list(LIVES)
    choices = dict(zip(names, ("ask", "keep", "back", "ask", "ask", "failed"), strict=True))
    return Outcome(
        "functional-memory",
        confusion={name: GOOD if "6" in name else HALF for name in names if "11" not in name},
        unseen={"ann day 11": GOOD, "bob day 11": np.zeros((2, 2), np.int64)},
        exchanges={name: DayExchange(choice, 0.5, 10, 4) for name, choice in choices.items()},
    )


def test_ranges_are_the_clients_days_and_the_unseen(outcome):
    clients, unseen = ranges(outcome, LIVES)
    assert (clients.first, clients.last, unseen.first, unseen.last) == (6, 7, 11, 11)
    assert (clients.accuracy, unseen.accuracy) == (0.75, 1)
    assert clients.macro_f1 == pytest.approx((1 + 1 / 3) / 2)
    assert (clients.asked, clients.kept, clients.back) == (3, 1, 0)
    assert (clients.bytes_down, clients.bytes_up) == (20, 8)
    assert (unseen.asked, unseen.back) == (0, 1), "who was not tested counts nowhere"


def test_day_by_day(outcome):
    assert by_day(outcome, LIVES) == {6: 1, 7: 0.5, 11: 1}
    assert asked(outcome, LIVES) == {6: 2, 7: 1}


def test_a_baseline_says_nothing_and_others_have_no_days(outcome):
    silent = Outcome("source", confusion=outcome.confusion)
    (days,) = ranges(silent, LIVES)
    assert days.asked is None
    assert days.bytes_down is None
    assert ranges(outcome, {}) == []


def test_the_summary_and_the_figure(outcome):
    silent = Outcome("source", confusion=outcome.confusion, unseen=outcome.unseen)
    config, classes = Simulation(name="tiny"), ("a", "b")
    summary = summarise(config, "days", classes, [], [outcome, silent], LIVES)
    assert summary.lives == LIVES
    assert [len(method.days) for method in (summary, *summary.baselines)] == [2, 2]
    console = Console(file=StringIO(), width=120)
    console.print(days_table(summary))
    lines = console.file.getvalue().splitlines()
    assert " ".join(lines[1].split()) == "functional-memory 6–7 0.750 0.667 3 0 20 B 8 B"
    assert " ".join(lines[3].split()) == "source 6–7 0.750 0.667 – – – –"
    drawn = plots.draw(summary, [outcome, silent])
    assert next(iter(drawn)) == "days"
    assert "asked" in drawn["days"].svg
