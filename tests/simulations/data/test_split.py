from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from schemas.base import ConfigError
from schemas.simulation import Data
from simulations.data.base import DataError, DataSource, Recordings
from simulations.data.npz import NpzSource
from simulations.data.split import Split, source_rows, split
from simulations.data.watch import WatchSource

Make = Callable[..., Recordings]
WISDM = "wisdm51_watch_accgyro.npz"


def every_part_is_clean(recordings: Recordings, parted: Split, leaks: Callable[..., int]) -> None:
    assert parted.parts.keys() == {*parted.clients, *parted.unseen}
    for person, part in parted.parts.items():
        assert (recordings.person[part.train] == person).all()
        assert (recordings.person[part.test] == person).all()
        assert leaks(recordings, part.train, part.test) == 0
        classes = np.unique(recordings.y[recordings.person == person])
        assert np.array_equal(np.unique(recordings.y[part.train]), classes)
        assert np.array_equal(np.unique(recordings.y[part.test]), classes)


def test_everyone_has_one_part_and_the_seed_decides(simple: Make) -> None:
    config = Data(source_persons=2, unseen_persons=3)
    first, again, other = (split(simple(9), config, seed) for seed in (0, 0, 1))
    order = np.random.default_rng(0).permutation(9).tolist()
    assert (*first.sources, *first.clients, *first.unseen) == tuple(order)
    assert (len(first.sources), len(first.clients), len(first.unseen)) == (2, 4, 3)
    assert (first.sources, first.clients) == (again.sources, again.clients)
    assert (first.sources, first.clients) != (other.sources, other.clients)


def test_numbers_that_roles_overrule_are_refused(simple: Make) -> None:
    """A default may stand in the file; what somebody set was meant to change something."""
    recordings = replace(simple(4), roles=("source", "client", "client", "unseen"))
    parted = split(recordings, Data(source_persons=3, unseen_persons=0), 0)
    assert (parted.sources, parted.clients, parted.unseen) == ((0,), (1, 2), (3,))
    with pytest.raises(ConfigError) as caught:
        split(recordings, Data(kind="mine", source_persons=2, unseen_persons=1), 0)
    assert caught.value.problems == tuple(
        f"data.{key}: data.kind = 'mine' says itself who is a source, a client or unseen; leave "
        "it out"
        for key in ("source_persons = 2", "unseen_persons = 1")
    )


def test_unseen_persons_have_no_labels(simple: Make) -> None:
    parted = split(simple(4), Data(source_persons=1, unseen_persons=1, label_fraction=1), 0)
    assert all((parted.parts[p].labels == -1).all() for p in parted.unseen)
    assert all((parted.parts[p].labels >= 0).all() for p in parted.clients)


def test_sources_give_all_of_a_known_class(make: Make) -> None:
    recordings = make([0] * 4 + [1] * 20, [1, -1, 0, 0] + [0] * 20, [0] * 4 + [1] * 20, range(24))
    assert source_rows(recordings, 0).tolist() == [0, 2, 3]


@pytest.mark.parametrize("kind", ["watch", WISDM, "uci_har_6ch.npz"])
@pytest.mark.parametrize("overlap", [0.5, 0.75])
def test_real_sets_do_not_leak(
    kind: str, overlap: float, shared: Callable[[str], Path], leaks: Callable[..., int]
) -> None:
    source: DataSource
    config = Data(overlap=overlap, unseen_persons=2)
    if kind == "watch":
        source = WatchSource(config, Path())
    else:
        source = NpzSource(config.model_copy(update={"path": str(shared(kind))}), Path())
    recordings = source.load()
    every_part_is_clean(recordings, split(recordings, config, 0), leaks)


def test_both_wrists_are_in_both_parts() -> None:
    config = Data()
    recordings = WatchSource(config, Path()).load()
    for part in split(recordings, config, 0).parts.values():
        streams = [np.unique(recordings.stream[rows]).tolist() for rows in (part.train, part.test)]
        assert streams[0] == streams[1]
        assert len(streams[0]) == 14


@pytest.mark.parametrize(("fraction", "labelled"), [(0.01, 18), (0.05, 36), (0.2, 179), (1, 861)])
def test_wisdm_has_the_design_s_counts(
    fraction: float, labelled: int, shared: Callable[[str], Path]
) -> None:
    config = Data(path=str(shared(WISDM)), source_persons=1, label_fraction=fraction)
    recordings = NpzSource(config, Path()).load()
    everyone = split(recordings, config, 0)
    means = np.mean([(part.labels >= 0).sum() for part in everyone.parts.values()])
    assert round(means) == labelled
    design = split(recordings, config.model_copy(update={"source_persons": 12}), 0)
    assert (len(design.sources), len(design.clients)) == (12, 34)


def test_one_person_only(simple: Make) -> None:
    with pytest.raises(DataError, match="of 1 person"):
        split(simple(1), Data(source_persons=1), 0)


@pytest.mark.parametrize(("sources", "unseen"), [(4, 0), (5, 0), (3, 1), (1, 3), (100, 100)])
def test_no_client_left(simple: Make, sources: int, unseen: int) -> None:
    config = Data(source_persons=sources, unseen_persons=unseen)
    with pytest.raises(ConfigError, match=f"source_persons = {sources}.*of 4 persons.*at most 3"):
        split(simple(4), config, 0)


def test_a_person_without_windows(simple: Make) -> None:
    recordings = simple(4, names=("a", "b", "c", "d", "nobody"))
    with pytest.raises(DataError, match="person 'nobody': no windows"):
        split(recordings, Data(source_persons=1), 0)


def test_a_source_without_labels(make: Make) -> None:
    recordings = make([0] * 9 + [1] * 9, [-1] * 9 + [0] * 9, [0] * 9 + [1] * 9, [*range(9)] * 2)
    seed = next(s for s in range(9) if np.random.default_rng(s).permutation(2)[0] == 0)
    with pytest.raises(DataError, match=r"person 'p0'.*source"):
        split(recordings, Data(source_persons=1), seed)
