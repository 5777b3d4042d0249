"""From a simulation file to what its strategies run on: data cut and split, sources, devices."""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from hypernet.networks.classifier import Classifier
from hypernet.networks.inputs import InputSpec
from hypernet.source_training import new_classifier, train_source
from hypernet.sources import Sources
from schemas.base import ConfigError
from schemas.simulation import Simulation
from server.federation import Federation
from server.graphs import GraphBook, default_cache
from server.kept import kept, kept_at
from simulations.config import Loaded
from simulations.data.base import DataError, Recordings
from simulations.data.checks import checked
from simulations.data.load import source
from simulations.data.shards import write_shards
from simulations.data.split import Split, source_rows, split
from simulations.report.files import RunError

FIRST_NODE = 1  # Flower keeps 0 for the server


@dataclass(frozen=True)
class World:
    """What all strategies of a run share.

    Attributes
    ----------
    recordings : Recordings
    persons, unseen : dict[int, str]
        Names by node id.
    nodes : dict[int, dict[str, str | int]]
        Each node's configuration: where its windows lie, and its number as Flower's own runtimes
        give it (``partition-id``: 0, 1, …, by node id).
    federation : Federation
    digest : str
        Of all recordings: a run on others is another run.
    """

    recordings: Recordings
    persons: dict[int, str]
    unseen: dict[int, str]
    nodes: dict[int, dict[str, str | int]]
    federation: Federation
    digest: str


@contextmanager
def open_world(loaded: Loaded, folder: Path, tell: Callable[[str], None]) -> Iterator[World]:
    """Load, split and lay out the data; what devices read is gone when the run is over.

    Parameters
    ----------
    loaded : Loaded
    folder : Path
        Where the devices' windows lie meanwhile.
    tell : callable
        Takes a line for whoever watches.

    Raises
    ------
    DataError, ConfigError
        Where data or their parts are not what the file says.
    RunError
        Where the disk is full.
    """
    config = loaded.config
    try:
        found = source(config.data, loaded.path.parent).load()
        recordings = checked(found, config.data.kind)
        if config.data.rectify:
            single = tuple((channel,) for channel in range(recordings.x.shape[2]))
            recordings = replace(recordings, magnitudes=(*recordings.magnitudes, *single))
        parts = _split(loaded, recordings)
    except ConfigError as error:
        raise ConfigError(str(loaded.path), error.problems) from error
    except DataError as error:
        raise DataError(f"{loaded.path}: {error}") from error
    _check_cohort(loaded, parts)
    try:
        shards = _write(recordings, parts, folder)
        yield _world(config, recordings, parts, shards, tell)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _split(loaded: Loaded, recordings: Recordings) -> Split:
    """Part the persons; who is told of one that cannot be parted learns where all are shown."""
    try:
        return split(recordings, loaded.config.data, loaded.config.seed)
    except DataError as error:
        raise DataError(
            f"{error}; flwr-sim data {loaded.path} shows all persons and classes"
        ) from error


def _write(recordings: Recordings, parts: Split, folder: Path) -> dict[str, Path]:
    try:
        return write_shards(recordings, parts, folder)
    except DataError as error:
        if isinstance(error.__cause__, OSError):  # the disk's fault, not the recordings'
            raise RunError(str(error)) from error
        raise


def _world(
    config: Simulation,
    recordings: Recordings,
    parts: Split,
    shards: dict[str, Path],
    tell: Callable[[str], None],
) -> World:
    names = recordings.persons
    persons = {person + FIRST_NODE: names[person] for person in parts.clients}
    unseen = {person + FIRST_NODE: names[person] for person in parts.unseen}
    sources = sources_of(recordings, parts)
    owners = tuple(recordings.lives[p][0] for p in parts.sources if recordings.lives)
    return World(
        recordings=recordings,
        persons=persons,
        unseen=unseen,
        nodes={
            node: {
                "windows": str(shards[name].resolve()),
                "partition-id": number,
                **_adapters(recordings, node, shards[name]),
            }
            for number, (node, name) in enumerate(sorted((persons | unseen).items()))
        },
        federation=Federation(
            config=config,
            sources=sources,
            clients=tuple(sorted(persons)),
            graphs=GraphBook(default_cache()),
            source_model=SourceModel(sources, config, tell, owners),
            lives={
                node: recordings.lives[node - FIRST_NODE]
                for node in (*persons, *unseen)
                if recordings.lives
            },
            owners=owners,
        ),
        digest=digest_of(recordings),
    )


def _adapters(recordings: Recordings, node: int, shard: Path) -> dict[str, str | int]:
    """Where a device that lives through days keeps its adapters: one folder for all of them."""
    if not recordings.lives:
        return {}
    owners = list(dict.fromkeys(owner for owner, _ in recordings.lives))
    number = owners.index(recordings.lives[node - FIRST_NODE][0])
    return {"adapters": str(shard.resolve().with_name(f"adapters-{number}"))}


def digest_of(recordings: Recordings) -> str:
    """Digest of all windows, labels and names."""
    names = (recordings.persons, recordings.classes, recordings.magnitudes)
    digest = hashlib.sha256(repr(names).encode())
    fields = ("x", "y", "person", "stream", "start")
    for array in (getattr(recordings, field) for field in fields):
        digest.update(repr((array.dtype.str, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def sources_of(recordings: Recordings, parts: Split) -> Sources:
    """The volunteers' labelled windows as tensors."""
    _, time, channels = recordings.x.shape
    rows = [source_rows(recordings, person) for person in parts.sources]
    return Sources(
        spec=InputSpec(time, channels, recordings.magnitudes),
        x=[torch.from_numpy(np.ascontiguousarray(recordings.x[row])) for row in rows],
        y=[torch.from_numpy(recordings.y[row]) for row in rows],
        classes=len(recordings.classes),
    )


class SourceModel:
    """The sources' model: trained at the first call, kept for the run and, by digest, on disk.

    Parameters
    ----------
    sources : Sources
    config : Simulation
    tell : callable
        Takes a line for whoever watches.
    owners : Sequence[str]
        By source, where a source is one day of somebody: whose.
    """

    def __init__(
        self,
        sources: Sources,
        config: Simulation,
        tell: Callable[[str], None],
        owners: Sequence[str] = (),
    ) -> None:
        self.sources, self.config, self.tell, self.owners = sources, config, tell, owners
        self._network: Classifier | None = None

    def __call__(self) -> Classifier:
        """Return it.

        Raises
        ------
        RunError
            Where training diverged.
        OSError
            Where the disk is full.
        """
        if self._network is None:
            found = kept(self._path(), {"source": self._new()}, self._trained)
            self._network = found["source"].eval()
        return self._network

    def _new(self) -> Classifier:
        return new_classifier(self.sources, self.config.model, self.config.seed)

    def _trained(self) -> dict[str, Classifier]:
        config = self.config
        self.tell(f"training on {self._volunteers()}: {config.source.steps} steps")
        network = train_source(self.sources, config.model, config.source, config.seed)
        _check_finite(network)
        return {"source": network}

    def _volunteers(self) -> str:
        if not self.owners:
            return f"{len(self.sources)} source persons"
        return f"{len(self.sources)} days of {len(set(self.owners))} source persons"

    def _path(self) -> Path | None:
        config = self.config
        text = f"{config.seed} {config.model.width} {config.model.latent} "
        text += f"{config.source!r} {self.sources.digest}"
        return kept_at(default_cache(), "source", text)


def _check_finite(network: Classifier) -> None:
    """Refuse a model that diverged: kept, it would spoil every later run on these sources."""
    if not all(bool(tensor.isfinite().all()) for tensor in network.state_dict().values()):
        raise RunError(
            "the sources' model is not finite after its training; lower source.learning_rate, or "
            "look at the sources' windows"
        )


def _check_cohort(loaded: Loaded, parts: Split) -> None:
    """Refuse to ask, or to wait for, more clients than there are."""
    config, count = loaded.config, len(parts.clients)
    wanted = {"cohort.size": config.cohort.size}
    if config.synchronous is not None:
        wanted["synchronous.min_replies"] = config.synchronous.min_replies
    if config.asynchronous is not None:
        wanted["asynchronous.concurrency"] = config.asynchronous.concurrency
    problems = [
        f"{key} = {size}: there are {count} clients; give 1 to {count}, or leave it out for "
        + ("1" if key.endswith("replies") else "all")
        for key, size in wanted.items()
        if size is not None and size > count
    ]
    if problems:
        raise ConfigError(str(loaded.path), problems)
