"""The facts on a terminal of 80 columns."""

from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

_CLASSES: Final = 8
_PERSONS: Final = 30
_NAME: Final = 14
_LINES: Final = 8


def show(found: dict[str, Any], warnings: list[str], console: Console) -> None:
    """Print them: what there is, who plays which part, and what to look at."""
    classes, persons = found["classes"], found["persons"]
    _line(
        console,
        f"{found['kind']}: {found['windows']:,} windows of {found['window_seconds']:g} s "
        f"({found['samples_a_window']} samples at {found['hz']:g} Hz), {len(persons)} persons, "
        f"{len(classes)} classes, {len(found['channels'])} channels",
    )
    console.print(_channels(found["channels"]))
    console.print(_windows(classes, persons))
    console.print(_parts(persons))
    _line(
        console,
        f"Sources give the server all their labels. Of a client's training windows "
        f"{found['label_fraction']:.0%} are labelled; the last "
        f"{1 - found['train_fraction']:.0%} of each class's time, after a gap, is test. Unseen "
        "persons have no label.",
    )
    for title, lines, style in (
        ("A run would refuse:", found["problems"], "bold red"),
        ("Look at:", warnings, "bold yellow"),
        ("Notes:", found["notes"], "bold"),
    ):
        if lines:
            console.print(Text(title, style=style))
            for line in lines[:_LINES]:
                _line(console, f"- {line}")
            if len(lines) > _LINES:
                _line(console, f"- {len(lines) - _LINES} more; --format json has all")


def _line(console: Console, text: str) -> None:
    console.print(Text(text), highlight=False)


def _channels(channels: list[dict[str, Any]]) -> Table:
    table = Table("channel", "min", "median", "max", "deviation", "zeros", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for each in channels[:_PERSONS]:
        numbers = (f"{each[key]:.4g}" for key in ("min", "median", "max", "deviation"))
        table.add_row(Text(_short(each["name"], 20)), *numbers, f"{each['zeros']:.0%}")
    if len(channels) > _PERSONS:
        table.add_row(f"… {len(channels) - _PERSONS} more")
    return table


def _windows(classes: list[str], persons: list[dict[str, Any]]) -> Table:
    """Persons × classes; the rarest classes together where there are many."""
    total = {c: sum(person["windows"][c] for person in persons) for c in classes}
    shown = classes
    if len(classes) > _CLASSES:
        most = sorted(classes, key=lambda c: -total[c])[: _CLASSES - 1]
        shown = [c for c in classes if c in most]
    table = Table("windows of", box=None, title=None)
    for name in shown:
        table.add_column(Text(_short(name, 7)), justify="right", no_wrap=True)
    rest = [c for c in classes if c not in shown]
    if rest:
        table.add_column(f"+{len(rest)}", justify="right")
    table.add_column("none", justify="right")
    for person in persons[:_PERSONS]:
        own = person["windows"]
        cells = [str(own[c] or "·") for c in shown]
        cells += [str(sum(own[c] for c in rest))] if rest else []
        table.add_row(Text(_short(person["name"], _NAME)), *cells, str(person["unlabelled"] or "·"))
    if len(persons) > _PERSONS:
        table.add_row(f"… {len(persons) - _PERSONS} more")
    sums = [str(total[c]) for c in shown]
    sums += [str(sum(total[c] for c in rest))] if rest else []
    table.add_row("all", *sums, str(sum(p["unlabelled"] for p in persons)), style="bold")
    return table


def _parts(persons: list[dict[str, Any]]) -> Table:
    table = Table("part", "persons", "training", "labelled", "test", box=None)
    for column in table.columns[2:]:
        column.justify = "right"
    for role in ("source", "client", "unseen"):
        own = [person for person in persons if person["role"] == role]
        if not own:
            continue
        names = ", ".join(_short(p["name"], _NAME) for p in own[:3])
        names += f" and {len(own) - 3} more" if len(own) > 3 else ""
        labelled = "all" if role == "source" else _range(own, "labelled")
        test = "·" if role == "source" else _range(own, "test")
        table.add_row(role, Text(names), _range(own, "training"), labelled, test)
    return table


def _range(persons: list[dict[str, Any]], key: str) -> str:
    """Least to most of them, a person."""
    values = [person[key] for person in persons if person.get(key) is not None]
    if not values:
        return "?"
    low, high = min(values), max(values)
    return str(low) if low == high else f"{low}–{high}"


def _short(name: str, length: int) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"
