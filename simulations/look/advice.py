"""What in the facts should make one look again, in plain words."""

from collections.abc import Iterator
from typing import Any, Final

_IMBALANCE: Final = 10
_FEW: Final = 20
_UNITS: Final = 100
_NAMED: Final = 5


def advice(found: dict[str, Any]) -> list[str]:
    """Return warnings, the gravest first; ``problems``, which end a run, are not among them."""
    return [*_remedies(found), *_persons(found), *_channels(found["channels"]), *_classes(found)]


def _remedies(found: dict[str, Any]) -> Iterator[str]:
    if found["kind"] == "recordings" and any("too few" in said for said in found["problems"]):
        yield (
            "data.options.leave_out = ['CLASS'] leaves a class out for everybody, least_windows = "
            "10 only where a person has fewer windows of it"
        )


def _persons(found: dict[str, Any]) -> Iterator[str]:
    for pair in found["duplicates"]:
        a, b = pair["persons"]
        yield (
            f"{pair['windows']} windows of {b} are {a}'s too, to the bit: was a file copied? What "
            "is learned from one is tested on the other"
        )
    few = [
        person["name"]
        for person in found["persons"]
        if sum(person["windows"].values()) + person["unlabelled"] < _FEW
    ]
    if few:
        yield f"fewer than {_FEW} windows: {listed(few)}; their scores will jump about"
    persons = found["persons"]
    if len(persons) < 5:
        yield (
            f"{len(persons)} persons: what a run says of them need not hold for others; ten or "
            "more are a beginning"
        )
    every = sum(sum(person["windows"].values()) for person in persons) + found["unlabelled_windows"]
    if found["unlabelled_windows"] > every / 2:
        yield f"{found['unlabelled_windows']} of {every} windows have no label"


def _channels(channels: list[dict[str, Any]]) -> Iterator[str]:
    if flat := [c["name"] for c in channels if c["constant"]]:
        yield f"constant: {listed(flat)}; a sensor that was off, or a column that is no channel"
    if rising := [c["name"] for c in channels if c["rising"] and not c["constant"]]:
        yield f"only rising: {listed(rising)}; a clock or counter is no channel"
    if empty := [c["name"] for c in channels if c["zeros"] > 0.5 and not c["constant"]]:
        yield f"more than half zeros: {listed(empty)}"
    if clipped := [f"{c['name']} ({c['clipped']:.0%})" for c in channels if c["clipped"]]:
        yield f"at the end of its range: {listed(clipped)}; the sensor may have been too small"
    moving = sorted((c for c in channels if c["deviation"] > 0), key=lambda c: c["deviation"])
    if moving and moving[-1]["deviation"] > _UNITS * moving[0]["deviation"]:
        low, high = moving[0], moving[-1]
        yield (
            f"{high['name']} varies {high['deviation'] / low['deviation']:,.0f} times as much as "
            f"{low['name']}: other units? The network normalises each channel, so that this is no "
            "harm where it is meant"
        )


def _classes(found: dict[str, Any]) -> Iterator[str]:
    persons, classes = found["persons"], found["classes"]
    total = {c: sum(person["windows"][c] for person in persons) for c in classes}
    present = {c: n for c, n in total.items() if n}
    if none := [c for c in classes if not total[c]]:
        yield f"no window of class {listed(none)}"
    if present and max(present.values()) > _IMBALANCE * min(present.values()):
        rare, common = min(present, key=present.__getitem__), max(present, key=present.__getitem__)
        yield (
            f"{common!r} has {present[common]} windows, {rare!r} {present[rare]}: read macro-F1, "
            "in which each class counts alike, and not accuracy"
        )
    having = {c: [p["name"] for p in persons if p["windows"][c]] for c in present}
    if few := [f"{c} ({', '.join(n)})" for c, n in having.items() if len(n) <= 2 < len(persons)]:
        yield f"only one or two persons have {listed(few)}"
    sources = [p for p in persons if p["role"] == "source"]
    clients = [p for p in persons if p["role"] in ("client", "unseen")]
    if sources and clients:
        unheard = [
            c
            for c in present
            if not any(p["windows"][c] for p in sources) and any(p["windows"][c] for p in clients)
        ]
        if unheard:
            yield (
                f"no source has {listed(unheard)}: the server's model cannot know it; take "
                "another seed, or more source_persons"
            )


def listed(names: list[str]) -> str:
    """Some names, and how many more."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
