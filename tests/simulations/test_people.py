"""What the demonstration shows; that a fleet of daemons learns is ``engine/test_fleet.py``'s."""

from io import StringIO

import pytest
from rich.console import Console

from simulations.people import People


def shown(**console):
    """Three rounds of two people, as a console has them."""
    said = Console(file=StringIO(), width=90, **console)
    people = People(said)
    people.begin("fedavg", 3)
    for number, scores in enumerate(((0.25, 0.5), (0.5, 0.5), (0.75, 1.0)), 1):
        people.people(number, dict(zip("ab", scores, strict=True)))
    return people, said.file.getvalue()


def result(people):
    console = Console(file=StringIO(), width=90)
    people.result(console)
    return console.file.getvalue()


def test_a_log_has_the_first_table_and_the_result_is_the_last():
    people, said = shown()
    assert "after round 1" in said
    assert "round 2" not in said
    assert "round 3" not in said
    lines = result(people).splitlines()
    assert lines[0].rstrip() == "macro-F1 after round 3"
    assert lines[1].split() == ["person", "macro-F1", "since", "round", "1"]
    assert [line.split()[-2:] for line in lines[2:]] == [["0.750", "+0.500"], ["1.000", "+0.500"]]


def test_a_terminal_sees_each_table_once():
    people, said = shown(force_terminal=True)
    assert [f"after round {number}" in said for number in (1, 2, 3)] == [True, True, False]
    assert "after round 3" in result(people)
    assert result(people) == ""


def test_of_several_strategies_the_last_has_the_result():
    people, _ = shown()
    people.begin("ditto", 1)
    assert "after round 3" in people.console.file.getvalue()
    people.people(1, {"a": 0.5})
    assert "+0.000" in result(people)


@pytest.mark.parametrize("score", [0.0, 0.01, 1.0])
def test_bars_begin_and_end_in_the_same_columns(score):
    people = People(Console(file=StringIO(), width=90))
    people.begin("fedavg", 1)
    people.people(1, {"a": score})
    head, row = result(people).splitlines()[1:]
    assert head.index("macro-F1") + len("macro-F1") == row.index(f"{score:.3f}") + 5


def test_nobody_evaluated_has_no_table():
    assert result(People(Console(file=StringIO()))) == ""
