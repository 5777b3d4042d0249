"""The folders that simulated devices read: one a client and unseen person."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import numpy as np

from client.windows import PersonWindows
from simulations.data.base import DataError, Recordings
from simulations.data.split import Split

INDEX = "shards.json"


def write_shards(recordings: Recordings, split: Split, folder: Path) -> dict[str, Path]:
    """Write every client's and unseen person's windows, or find them written.

    All are written beside ``folder`` and renamed at once; ``shards.json`` in it holds the digest of
    all that went in. A complete folder of the same digest is used as it is, any other of ours is
    replaced. One process at a time may write a folder.

    Parameters
    ----------
    recordings : Recordings
        All windows.
    split : Split
        Who has which.
    folder : Path
        The folder of all shards.

    Returns
    -------
    dict[str, Path]
        Each person's folder by name, clients first, for ``PersonWindows.open``.

    Raises
    ------
    DataError
        Where two persons have the same name, ``folder`` holds something else, or it cannot be
        written; nothing half-written is left.
    """
    folders = _folder_names(recordings, split)
    digest = _digest(recordings, split)
    try:
        if not _complete(folder, digest, folders):
            _replace(recordings, split, folder, {"digest": digest, "folders": folders})
    except OSError as error:
        why = error.strerror or str(error)
        raise DataError(f"{folder}: the clients' windows could not be written: {why}") from error
    return {name: folder / safe for name, safe in folders.items()}


def _folder_names(recordings: Recordings, split: Split) -> dict[str, str]:
    """Return each person's folder: a number, and what of the name is safe in a path."""
    names = {}
    for person in (*split.clients, *split.unseen):
        name = recordings.persons[person]
        if name in names:
            raise DataError(
                f"two persons are named {name!r}; every person needs a name of their own"
            )
        safe = re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:40]
        names[name] = f"{person:05d}-{safe}"
    return names


def _digest(recordings: Recordings, split: Split) -> str:
    """Return a digest of all that the shards are made of."""
    digest = hashlib.sha256()
    for person in (*split.clients, *split.unseen):
        part = split.parts[person]
        digest.update(repr((person, recordings.persons[person])).encode())
        for array in (part.train, part.labels, part.test, recordings.y[part.test]):
            digest.update(repr((array.dtype.str, array.shape)).encode())
            digest.update(np.ascontiguousarray(array).data)
    digest.update(repr((recordings.x.dtype.str, recordings.x.shape)).encode())
    digest.update(np.ascontiguousarray(recordings.x).data)
    return digest.hexdigest()


def _complete(folder: Path, digest: str, folders: dict[str, str]) -> bool:
    """Tell whether the folder holds these shards, all of them readable."""
    try:
        index = json.loads((folder / INDEX).read_text())
        if index != {"digest": digest, "folders": folders}:
            return False
        for name in folders.values():
            PersonWindows.open(folder / name)
    except (OSError, ValueError):
        return False
    return True


def _replace(recordings: Recordings, split: Split, folder: Path, index: dict[str, object]) -> None:
    """Write all beside the folder, then put it in the folder's place."""
    if folder.exists() and not (folder / INDEX).is_file() and any(folder.iterdir()):
        raise DataError(f"{folder}: holds files but no {INDEX}: it is not replaced; name another")
    part, old = folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.old")
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    shutil.rmtree(old, ignore_errors=True)
    try:
        _write(recordings, split, part, index)
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _check_written(folder: Path) -> None:
    """Read a person's folder back: numpy says nothing where a disk fills in the last few kB."""
    try:
        PersonWindows.open(folder)
    except ValueError as error:
        raise OSError(f"written short: {error}") from error


def _write(recordings: Recordings, split: Split, part: Path, index: dict[str, object]) -> None:
    """Write the persons' folders, then the index."""
    part.mkdir(parents=True)
    for person, name in zip(split.parts, _folder_names(recordings, split).values(), strict=True):
        share = split.parts[person]
        windows = PersonWindows(
            train=recordings.x[share.train],
            labels=share.labels,
            test=recordings.x[share.test],
            test_labels=recordings.y[share.test],
        )
        windows.save(part / name)
        _check_written(part / name)
    (part / INDEX).write_text(json.dumps(index, indent=1))
