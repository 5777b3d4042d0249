"""Networks that the server trained, kept on disk under a digest of all that they came from."""

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from server.graphs import code_digest, write_whole

Network = TypeVar("Network", bound=nn.Module)


def kept_at(cache: Path | None, kind: str, made_from: str) -> Path | None:
    """Where networks are kept.

    Parameters
    ----------
    cache : Path or None
        A folder; None keeps nothing.
    kind : str
        For people who look into it.
    made_from : str
        All that they depend on, but for this package's code and torch's version.
    """
    if cache is None:
        return None
    digest = hashlib.sha256(f"{code_digest()} {made_from}".encode()).hexdigest()
    return cache / f"{kind}-{digest}.safetensors"


def kept(
    path: Path | None, new: Mapping[str, Network], train: Callable[[], Mapping[str, Network]]
) -> Mapping[str, Network]:
    """Return networks as they were kept, or trained and kept from now on.

    Of several processes that want the same, one trains; the others wait and read.

    Parameters
    ----------
    path : Path or None
        See ``kept_at``.
    new : Mapping[str, nn.Module]
        By name, of the layout that is asked for; what was kept is read into them.
    train : callable
        Returns such networks; they may be ``new``.

    Raises
    ------
    OSError
        Where the disk is full or the folder cannot be written; see ``write_whole``.
    """
    if path is None:
        return train()
    if _load(path, new):
        return new
    with _alone(path):
        if _load(path, new):
            return new
        trained = train()
        write_whole(path, save(_tensors(trained)))
        return trained


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Have no other process do the same meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_suffix(".lock")
    while True:
        with lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_open(lock, file.fileno()):  # else who held it before has removed it
                try:
                    yield
                finally:
                    lock.unlink(missing_ok=True)
                return


def _is_open(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _load(path: Path, networks: Mapping[str, nn.Module]) -> bool:
    """Read what was kept, if it can be read and is of this layout; else nothing is changed."""
    if not path.is_file():
        return False
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError):
        tensors = {}
    if _layout(tensors) != _layout(_tensors(networks)):
        path.unlink(missing_ok=True)  # half-written by a crash, or foreign: train again
        return False
    for name, network in networks.items():
        own = (key for key in tensors if key.startswith(f"{name}/"))
        network.load_state_dict({key.removeprefix(f"{name}/"): tensors[key] for key in own})
    return True


def _tensors(networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": tensor.contiguous()
        for name, network in networks.items()
        for key, tensor in network.state_dict().items()
    }


def _layout(tensors: Mapping[str, Tensor]) -> dict[str, tuple[object, ...]]:
    return {name: (tensor.dtype, *tensor.shape) for name, tensor in tensors.items()}
