"""Networks that the server trained, kept on disk under a digest of all that they came from."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from server.graphs import code_digest, write_whole


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


def load_kept(path: Path | None, networks: Mapping[str, nn.Module]) -> bool:
    """Read what ``keep`` wrote into networks of the same layout.

    Returns
    -------
    Whether there was one that could be read; else the networks are as they were.
    """
    if path is None or not path.is_file():
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


def keep(path: Path | None, networks: Mapping[str, nn.Module]) -> None:
    """Write networks; see ``write_whole``."""
    if path is not None:
        write_whole(path, save(_tensors(networks)))


def _tensors(networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    return {
        f"{name}/{key}": tensor.contiguous()
        for name, network in networks.items()
        for key, tensor in network.state_dict().items()
    }


def _layout(tensors: Mapping[str, Tensor]) -> dict[str, tuple[object, ...]]:
    return {name: (tensor.dtype, *tensor.shape) for name, tensor in tensors.items()}
