"""Who plays which part: the server's volunteers, the clients, and those never seen."""

from dataclasses import dataclass

import numpy as np

from schemas.base import ConfigError
from schemas.simulation import Data
from simulations.data.base import DataError, Recordings
from simulations.data.parts import Part, Rows, in_time, part_person
from simulations.data.pools import pooled


@dataclass(frozen=True)
class Split:
    """The persons' parts.

    Attributes
    ----------
    sources : tuple[int, ...]
        Volunteers: the server holds all of their windows of a known class, with labels.
    clients : tuple[int, ...]
        Persons who take part in the rounds.
    unseen : tuple[int, ...]
        Persons who meet only the result, without a label.
    parts : dict[int, Part]
        By client and unseen person.
    """

    sources: tuple[int, ...]
    clients: tuple[int, ...]
    unseen: tuple[int, ...]
    parts: dict[int, Part]


def split(recordings: Recordings, config: Data, seed: int) -> Split:
    """Draw the persons' parts, and part each person's windows by time.

    Persons are put in a random order: the first ``source_persons`` are sources, the last
    ``unseen_persons`` unseen, and those between are clients. Where the recordings have roles, those
    hold in place of both numbers.

    Parameters
    ----------
    recordings : Recordings
        All windows.
    config : Data
        How to part them; ``simulations.data.parts`` says how time is cut.
    seed : int
        Of the order of persons, and of nothing else.

    Raises
    ------
    ConfigError
        Where no client would be left.
    DataError
        Where there is one person only, a person has no windows, or a class too few.
    """
    check_persons(recordings, config)
    sources, clients, unseen = drawn(recordings, config, seed)
    for person in sources:
        source_rows(recordings, person)
    parts = {
        p: pooled(recordings, part_person(recordings, p, config, labelled=True), config, seed)
        for p in clients
    }
    parts |= {p: part_person(recordings, p, config, labelled=False) for p in unseen}
    return Split(sources, clients, unseen, parts)


def drawn(
    recordings: Recordings, config: Data, seed: int
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return sources, clients and unseen persons, as the seed draws them."""
    if recordings.roles:
        sides = [
            tuple(p for p, own in enumerate(recordings.roles) if own == role)
            for role in ("source", "client", "unseen")
        ]
        return sides[0], sides[1], sides[2]
    order = np.random.default_rng(seed).permutation(len(recordings.persons)).tolist()
    last = len(order) - config.unseen_persons
    return (
        tuple(order[: config.source_persons]),
        tuple(order[config.source_persons : last]),
        tuple(order[last:]),
    )


def source_rows(recordings: Recordings, person: int) -> Rows:
    """Return the rows that a volunteer gives the server: all of a known class, in time order.

    Raises
    ------
    DataError
        Where there is none.
    """
    rows = np.flatnonzero((recordings.person == person) & (recordings.y >= 0))
    if not len(rows):
        raise DataError(
            f"person {recordings.persons[person]!r}: no window has a known class (all labels are "
            "-1), and a source person's windows must have one"
        )
    return in_time(recordings, rows)


def check_persons(recordings: Recordings, config: Data) -> None:
    """Refuse too few persons, and persons without windows."""
    count = len(recordings.persons)
    if count < 2:
        raise DataError(f"the recordings are of {count} person; a source and a client are needed")
    if recordings.roles and (problems := _overruled(config)):
        raise ConfigError("[data]", problems)
    if not recordings.roles and config.source_persons + config.unseen_persons >= count:
        raise ConfigError(
            "[data]",
            [
                (
                    f"data.source_persons = {config.source_persons}, data.unseen_persons = "
                    f"{config.unseen_persons}: the recordings are of {count} persons, so that no "
                    f"client is left; together at most {count - 1}"
                )
            ],
        )
    windows = np.bincount(recordings.person, minlength=count)
    if not windows.all():
        empty = [repr(recordings.persons[p]) for p in np.flatnonzero(windows == 0)]
        raise DataError(f"person {', '.join(empty)}: no windows; leave out who has none")


def _overruled(config: Data) -> list[str]:
    """What is set and would change nothing beside roles; a default may stand in the file."""
    return [
        f"data.{key} = {value!r}: data.kind = {config.kind!r} says itself who is a source, a "
        "client or unseen; leave it out"
        for key in ("source_persons", "unseen_persons")
        if (value := getattr(config, key)) != Data.model_fields[key].default
    ]
