"""What each column is: time, person, label or channel; said in the file, or found by name."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from simulations.data.base import DataError
from simulations.data.recordings.options import Options
from simulations.data.recordings.table import Table

_TIMES: Final = ("time", "timestamp", "t", "datetime", "date", "seconds", "ms", "elapsed", "clock")
_PERSONS: Final = ("person", "subject", "participant", "user", "volunteer", "proband")
_LABELS: Final = ("label", "labels", "activity", "class", "gesture", "exercise", "target", "state")


@dataclass(frozen=True)
class Roles:
    """Names of columns; None where there is none."""

    time: str | None
    person: str | None
    label: str | None
    channels: tuple[str, ...]
    others: tuple[str, ...]
    """Numbers, or text, that are taken for nothing."""


def roles_in(table: Table, options: Options, *, label_in_name: bool) -> Roles:
    """Say what the columns of a first file are.

    Raises
    ------
    DataError
        Where one that is named is missing, or no time, label or channel is found.
    """
    chosen = (*options.channels, *(name for group in options.magnitudes for name in group))
    for column in (options.time, options.person, options.label, *chosen):
        if column and column not in table.columns:
            raise missing(table, column)
    free = [name for name in table.columns if name not in options.ignore]
    times = _named(free, _TIMES)
    time = options.time if options.time is not None else next(iter(times), None)
    if time is None:
        raise DataError(
            f"{table.name}: no column of time among {_listed(table.columns)}; name it in "
            "data.options.time, or say time = '' and hz"
        )
    person = options.person or next(iter(_named(free, _PERSONS)), None)
    taken = {time, person, *times, *chosen}
    label = options.label or _label(table, [name for name in free if name not in taken])
    if label is None and not label_in_name:
        raise DataError(
            f"{table.name}: no column of labels among {_listed(table.columns)}; name it in "
            "data.options.label, or, where files are of one class each, say "
            "data.options.pattern = '{label}/{person}.csv'"
        )
    rest = [name for name in free if name not in {time, person, label, *times}]
    channels = options.channels or tuple(name for name in rest if name in table.numeric)
    if not options.channels:
        if broken := next((n for n in rest if table.mostly_numbers(n) and n not in channels), None):
            raise table.no_number(broken)
        if not channels:
            raise DataError(
                f"{table.name}: no channel: no column of numbers beside time and label among "
                f"{_listed(table.columns)}"
            )
    others = tuple(n for n in free if n not in {time, person, label, *channels})
    return Roles(time or None, person, label, channels, others)


def check(table: Table, roles: Roles, first: str, options: Options) -> None:
    """Refuse a file whose columns are not those of the first one."""
    for column in (roles.time, roles.person, roles.label):
        if column and column not in table.columns:
            raise DataError(f"{missing(table, column)}; {first} has it")
    for column in roles.channels:
        if column not in table.columns:
            raise DataError(
                f"{missing(table, column)}; {first} has it: name the channels that all files have "
                "in data.options.channels"
            )
        table.numbers(column)
    known = {roles.time, roles.person, roles.label, *roles.channels, *roles.others}
    more = [n for n in table.numeric if n not in known and n not in options.ignore]
    if more and not options.channels:
        raise DataError(
            f"{table.name}: a column {more[0]!r} that {first} has not; name the channels that all "
            "files have in data.options.channels, or this one in ignore"
        )


def missing(table: Table, column: str) -> DataError:
    """Return the error of a column that is not there."""
    return DataError(f"{table.name}: no column {column!r}; it has {_listed(table.columns)}")


def magnitudes(channels: tuple[str, ...], options: Options) -> tuple[tuple[int, ...], ...]:
    """Groups of channels that are one vector: as said, or names alike but for x, y and z."""
    if options.magnitudes:
        unknown = {n for group in options.magnitudes for n in group} - set(channels)
        if unknown:
            raise DataError(
                f"data.options.magnitudes: {min(unknown)!r} is no channel; there are "
                f"{_listed(channels)}"
            )
        return tuple(tuple(channels.index(n) for n in group) for group in options.magnitudes)
    groups: dict[str, dict[str, int]] = {}
    for place, name in enumerate(channels):
        if found := re.fullmatch(
            r"(.*?)[\W_]*([xyz])(?:[\W_]*(?:\(.*\)|\[.*\]))?", name, re.IGNORECASE
        ):
            groups.setdefault(found[1].casefold(), {})[found[2].casefold()] = place
    return tuple((g["x"], g["y"], g["z"]) for g in groups.values() if len(g) == 3)


def _label(table: Table, free: list[str]) -> str | None:
    """By name; or else the only column of text."""
    if named := _named(free, _LABELS):
        return named[0]
    text = [n for n in free if n not in table.numeric and not table.mostly_numbers(n)]
    text = [n for n in text if table.texts(n).null_count < table.rows and not table.is_time(n)]
    return text[0] if len(text) == 1 else None


def _named(names: Iterable[str], words: Iterable[str]) -> list[str]:
    """Columns whose name is, or holds, one of some words; the exact ones and first words first."""
    order, found = list(words), []
    for name in names:
        parts = re.split(r"[\W_]+", name.casefold())
        ranks = [
            order.index(part) + len(order) * (len(parts) > 1) for part in parts if part in order
        ]
        if ranks:
            found.append((min(ranks), name))
    return [name for _, name in sorted(found, key=lambda pair: pair[0])]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(list(names)[:12]) or "none"
