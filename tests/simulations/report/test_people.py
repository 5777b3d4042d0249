"""Who took part, in words."""

from collections.abc import Callable
from typing import Any

from simulations.report import people

LIVES = {f"{who} day {day}": (who, day) for who in ("ann", "bob") for day in (6, 7, 11)}
DAYS = {
    "lives": LIVES,
    "persons": [name for name, (_, day) in LIVES.items() if day < 11],
    "unseen_persons": [name for name, (_, day) in LIVES.items() if day == 11],
}


def test_persons_are_counted(make: Callable[..., Any]) -> None:
    run = make(persons=6, unseen=2, strategies=1).summary
    assert people.people(run) == "6 clients, 2 persons never seen"
    assert (people.clients(run), people.strangers(run)) == ("6 clients", "2 persons")
    assert people.heading(run) == "never seen"
    assert people.people(make(persons=1, unseen=0, strategies=1).summary) == "1 client"
    assert people.people(make(persons=1, unseen=1, strategies=1).summary).endswith(
        "1 person never seen"
    )


def test_days_of_a_device_are_no_persons(small: Any) -> None:
    run = small.summary.model_copy(update=DAYS)
    assert people.people(run) == "2 persons: 4 device-days (6–7), 2 device-days (11)"
    assert people.heading(run) == "day 11"
    alone = run.model_copy(update={"unseen_persons": []})
    assert people.people(alone) == "2 persons: 4 device-days (6–7)"
