"""Who took part, in words: persons, or days of persons whose devices live through them."""

from collections.abc import Sequence

from schemas.summary import Summary
from simulations.report.days import Lives, named, span

UNSEEN = "never seen"


def people(summary: Summary) -> str:
    """Everyone: ``6 clients, 1 person never seen``."""
    groups = [clients(summary)]
    if summary.unseen_persons:
        groups.append(strangers(summary) + ("" if summary.lives else f" {UNSEEN}"))
    owners = {owner for owner, _ in summary.lives.values()}
    return (f"{_count(len(owners), 'person')}: " if owners else "") + ", ".join(groups)


def clients(summary: Summary) -> str:
    """Those whom the mean is over: ``6 clients``, ``25 device-days (6–10)``."""
    return _group(summary.persons, "client", summary.lives)


def strangers(summary: Summary) -> str:
    """Those who meet only the result: ``1 person``, ``100 device-days (11–30)``."""
    return _group(summary.unseen_persons, "person", summary.lives)


def unit(summary: Summary) -> str:
    """What one tested device is: ``person``, ``device-day``."""
    return "device-day" if summary.lives else "person"


def heading(summary: Summary) -> str:
    """What a table calls the strangers' column: ``never seen``, ``days 11–30``."""
    return named(summary.unseen_persons, summary.lives) if summary.lives else UNSEEN


def _group(names: Sequence[str], kind: str, lives: Lives) -> str:
    if lives:
        return f"{_count(len(names), 'device-day')} ({span(names, lives)})"
    return _count(len(names), kind)


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
