"""Which files are recordings, and whom and what their names say."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from os.path import commonpath
from pathlib import Path
from typing import Final

from simulations.data.base import DataError

SUFFIXES: Final = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz", ".parquet")
_TEXTS: Final = (".txt", ".txt.gz")
MAX_FILES: Final = 100_000
_SHOWN: Final = 3


@dataclass(frozen=True)
class File:
    """One file.

    Attributes
    ----------
    path : Path
    name : str
        Within the folder, for messages.
    person : str
        As its place says; a column may say otherwise.
    label : str | None
        As its name says, where the pattern has ``{label}``.
    """

    path: Path
    name: str
    person: str
    label: str | None


def files_at(path: Path, pattern: str | None) -> tuple[list[File], tuple[str, ...]]:
    """Find the recordings at ``data.path``, in the order of their names, 2 before 10.

    Returns
    -------
    list[File], tuple[str, ...]
        At least one; and notes.

    Raises
    ------
    DataError
        Where there is none, or none that the pattern fits.
    """
    root = path if path.is_dir() else path.parent
    paths = _recordings(path) if path.is_dir() else [path]
    if not path.is_dir() and not _is_recording(path):
        raise DataError(f"{path}: no file of recordings; {_kinds()} are read")
    if not paths:
        raise DataError(f"{path}: no recordings in it; {_kinds()} are read, in folders below too")
    names = {each.relative_to(root).as_posix(): each for each in paths}
    if pattern is not None:
        return _fitting(path, names, pattern)
    taken, notes = _without_texts(list(names))
    persons = _by_place(taken)
    found = [File(names[name], name, persons[name], None) for name in taken]
    return found, (*notes, *_split_up([file.person for file in found]))


def _recordings(folder: Path) -> list[Path]:
    found = []
    for path in folder.rglob("*"):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts) and (
            _is_recording(path) and path.is_file()
        ):
            found.append(path)
        if len(found) > MAX_FILES:
            raise DataError(f"{folder}: over {MAX_FILES:,} recordings; at most so many are read")
    return sorted(found, key=lambda path: _natural(path.relative_to(folder).as_posix()))


def _is_recording(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES)


def _kinds() -> str:
    return ", ".join(SUFFIXES[:-1]) + f" and {SUFFIXES[-1]}"


def _natural(name: str) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", name)
    return [(int(part[:18]) if part.isdecimal() else -1, part.casefold()) for part in parts]


def _stem(name: str) -> str:
    """Return a file's name without its folders and its ending."""
    base = name.rpartition("/")[2]
    ending = max((s for s in SUFFIXES if base.lower().endswith(s)), key=len, default="")
    return base[: len(base) - len(ending)] or base


def _by_place(names: Sequence[str]) -> dict[str, str]:
    """Persons by file: the first folder that tells files apart, or else the file's own name."""
    parents = [name.rpartition("/")[0] for name in names]
    shared = commonpath(parents) if all(parents) else ""
    depth = len(shared.split("/")) if shared else 0
    persons = {}
    for name in names:
        parts = name.split("/")[depth:]
        persons[name] = parts[0] if len(parts) > 1 else _stem(name)
    return persons


def _without_texts(names: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """Leave ``.txt`` out beside tables: it is a readme then, or somebody's notes."""
    texts = [name for name in names if name.lower().endswith(_TEXTS)]
    if not texts or len(texts) == len(names):
        return names, ()
    few = ", ".join(texts[:_SHOWN]) + (" …" if len(texts) > _SHOWN else "")
    note = f"left out beside other kinds of files, unless data.options.pattern names it: {few}"
    return [name for name in names if name not in set(texts)], (note,)


def _fitting(
    path: Path, names: dict[str, Path], pattern: str
) -> tuple[list[File], tuple[str, ...]]:
    """Files whose names fit, as the pattern reads them."""
    wanted, whole = _expression(pattern), "/" in pattern
    found, others = [], []
    persons = _by_place(list(names))
    for name, each in names.items():
        match = wanted.fullmatch(name if whole else name.rpartition("/")[2])
        if match is None:
            others.append(name)
            continue
        said = match.groupdict()
        found.append(File(each, name, said.get("person") or persons[name], said.get("label")))
    if not found:
        raise DataError(
            f"{path}: data.options.pattern = {pattern!r} fits none of {len(names)} files, such as "
            f"{', '.join(others[:_SHOWN])}; with a / in it, it is read from {path} on"
        )
    if not others:
        return found, ()
    few = ", ".join(others[:_SHOWN]) + (" …" if len(others) > _SHOWN else "")
    return found, (f"{len(others)} files do not fit the pattern and are left out: {few}",)


def _expression(pattern: str) -> re.Pattern[str]:
    """Return a pattern as a regular expression."""
    text = re.escape(pattern).replace(r"\*\*/", "(?:.*/)?").replace(r"\*\*", ".*")
    text = text.replace(r"\*", "[^/]*")
    for place in ("person", "label"):
        text = text.replace(rf"\{{{place}\}}", f"(?P<{place}>[^/]+?)")
    return re.compile(text, re.IGNORECASE)


def _split_up(persons: Sequence[str]) -> tuple[str, ...]:
    """Tell who may be one person in several files: test and training would be of one then."""
    if all(re.fullmatch(r"\d{4,}[\d_\-.: T]*", person) for person in persons):
        return (
            (
                f"persons are named {persons[0]!r} …: dates? data.options.pattern says where the "
                "person stands, as in '{person}/*.csv'"
            ),
        )
    by_start: dict[str, list[str]] = {}
    for person in dict.fromkeys(persons):
        start = re.split(r"[_\- .]", person)[0]
        by_start.setdefault(start, []).append(person)
    several = [group for group in by_start.values() if len(group) > 1]
    if len(by_start) < 2 or not several:
        return ()
    return (
        (
            f"{several[0][0]!r} and {several[0][1]!r} count as two persons; where they are one, "
            "say data.options.pattern = '{person}_*', with the character that stands there"
        ),
    )
