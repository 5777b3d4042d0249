import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.windows import PersonWindows
from schemas.simulation import Data
from simulations.data.base import DataError, Recordings
from simulations.data.shards import write_shards
from simulations.data.split import Split, split

Make = Callable[..., Recordings]


@pytest.fixture
def parted(simple: Make) -> tuple[Recordings, Split]:
    recordings = simple(5)
    return recordings, split(recordings, Data(source_persons=2, unseen_persons=1), 0)


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow over 1 kB: the nearest to a full disk that needs no privilege.

    No fixture: pytest itself writes to its log before it tears a fixture down.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def everything(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_devices_read_what_the_split_says(tmp_path: Path, parted: tuple[Recordings, Split]) -> None:
    recordings, drawn = parted
    folders = write_shards(recordings, drawn, tmp_path / "shards")
    people = (*drawn.clients, *drawn.unseen)
    assert list(folders) == [recordings.persons[p] for p in people]
    for person in people:
        windows, part = PersonWindows.open(folders[recordings.persons[person]]), drawn.parts[person]
        assert windows.train.dtype == np.float16
        assert np.array_equal(windows.train, recordings.x[part.train])
        assert np.array_equal(windows.labels, part.labels)
        assert np.array_equal(windows.test, recordings.x[part.test])
        assert np.array_equal(windows.test_labels, recordings.y[part.test])
        assert (windows.labels >= 0).any() == (person in drawn.clients)
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]
    assert list(json.loads((tmp_path / "shards/shards.json").read_text())["folders"]) == [*folders]


def test_the_same_is_reused_and_another_replaces_it(
    tmp_path: Path, parted: tuple[Recordings, Split]
) -> None:
    recordings, drawn = parted
    folder = tmp_path / "shards"
    write_shards(recordings, drawn, folder)
    before = everything(folder)
    write_shards(recordings, drawn, folder)
    assert everything(folder) == before
    turned = recordings.x.copy()
    turned[-1, -1, -1] += 1
    write_shards(replace(recordings, x=turned), drawn, folder)
    assert everything(folder).keys() == before.keys()
    assert everything(folder) != before
    write_shards(recordings, split(recordings, Data(source_persons=2), 1), folder)
    assert everything(folder).keys() != before.keys()


@pytest.mark.parametrize("broken", ["shards.json", "train.npy"])
def test_an_incomplete_folder_is_never_used(
    tmp_path: Path, parted: tuple[Recordings, Split], broken: str
) -> None:
    folder = tmp_path / "shards"
    write_shards(*parted, folder)
    before = {name: content for name, (_, content) in everything(folder).items()}
    path = next(folder.rglob(broken))
    path.write_bytes(path.read_bytes()[:-9])
    write_shards(*parted, folder)
    assert {name: content for name, (_, content) in everything(folder).items()} == before


def test_what_a_killed_process_left_is_cleared(
    tmp_path: Path, parted: tuple[Recordings, Split]
) -> None:
    (tmp_path / ".shards.part/00001-p1").mkdir(parents=True)
    write_shards(*parted, tmp_path / "shards")
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]


def test_a_foreign_folder_is_left_alone(tmp_path: Path, parted: tuple[Recordings, Split]) -> None:
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(DataError, match=r"holds files but no shards.json"):
        write_shards(*parted, tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "years"


def test_names_cannot_leave_the_folder(tmp_path: Path, simple: Make) -> None:
    names = ("../../etc", "/root", "..", "a\0b\n", "é" * 300, "", "A", "a")
    recordings = simple(8, names=names)
    drawn = split(recordings, Data(source_persons=1), 0)
    folders = write_shards(recordings, drawn, tmp_path / "shards")
    assert len({str(folder).lower() for folder in folders.values()}) == 7
    for folder in folders.values():
        assert folder.resolve().parent == (tmp_path / "shards").resolve()
        PersonWindows.open(folder)


def test_two_persons_of_one_name_are_refused(tmp_path: Path, simple: Make) -> None:
    recordings = simple(4, names=("a", "a", "a", "a"))
    drawn = split(recordings, Data(source_persons=1), 0)
    with pytest.raises(DataError, match="two persons are named 'a'"):
        write_shards(recordings, drawn, tmp_path / "shards")


def test_a_full_disk_leaves_nothing(tmp_path: Path, parted: tuple[Recordings, Split]) -> None:
    with (
        pytest.raises(DataError, match=r"shards: the clients' windows could not be written"),
        full_disk(),
    ):
        write_shards(*parted, tmp_path / "shards")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_what_was_there(
    tmp_path: Path, parted: tuple[Recordings, Split]
) -> None:
    recordings, drawn = parted
    write_shards(recordings, drawn, tmp_path / "shards")
    before = everything(tmp_path)
    with pytest.raises(DataError, match="could not be written"), full_disk():
        write_shards(replace(recordings, x=recordings.x + 1), drawn, tmp_path / "shards")
    assert everything(tmp_path) == before
