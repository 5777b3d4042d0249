"""What devices that live through days came to."""

import re
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from schemas.simulation import Simulation
from server.outcome import DayExchange, Outcome
from simulations.report import html, method_table, plots, summarise
from simulations.report.compare import days_table
from simulations.report.days import asked, between, by_day, ranges

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


def test_one_day_is_no_range():
    assert (between(6, 10), between(6, 6)) == ("6–10", "6")


def test_day_by_day(outcome):
    assert by_day(outcome, LIVES) == {6: 1, 7: 0.5, 11: 1}
    assert asked(outcome, LIVES) == {6: 2, 7: 1}


def test_who_asks_nothing_is_sent_the_same_each_day(outcome):
    tested = {"confusion": outcome.confusion, "unseen": outcome.unseen}
    silent = Outcome("source", bytes_down=500, bytes_up=0, **tested)
    clients, unseen = ranges(silent, LIVES)
    assert (clients.bytes_down, unseen.bytes_down) == (200, 100), "five days of two devices"
    assert (clients.bytes_up, clients.asked) == (0, None)
    silent.client_updates = 1
    assert ranges(silent, LIVES)[0].bytes_down is None, "rounds are of no day"


def test_the_page_and_the_table_call_days_no_persons(outcome):
    silent = Outcome("source", confusion=outcome.confusion, unseen=outcome.unseen)
    config, outcomes = Simulation(name="tiny"), [outcome, silent]
    summary = summarise(config, "days", ("a", "b"), [], outcomes, LIVES)
    drawn = plots.draw(summary, outcomes)
    page = html.render("x", config, summary, drawn)
    assert "2 persons: 4 device-days (6–7), 2 device-days (11)" in page
    assert "bytes a device-day" in drawn["bytes"].svg
    assert not re.search("never seen|clients", page)
    assert drawn["persons"].title == "Macro-F1 by person and day"
    assert drawn["persons"].caption == "Best first. Apart: day 11, without labels."
    console = Console(file=StringIO(), width=120)
    console.print(method_table(summary))
    assert console.file.getvalue().splitlines()[0].split()[1] == "day"


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
