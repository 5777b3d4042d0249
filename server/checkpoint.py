"""A run's state between two rounds, as one safetensors file that is replaced whole."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

FORMAT: Final = "flwr-edge checkpoint 1"


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or that belongs to another run."""


def foreign(path: Path) -> CheckpointError:
    """Return the error for a file of another run."""
    return CheckpointError(
        f"{path}: belongs to another configuration, other data or other code of your own; resume "
        "with what the run started from, each --set included (its folder's config.toml is all of "
        "it), or name another folder with --out"
    )


def savable(state: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """A strategy's state as a checkpoint holds it.

    Raises
    ------
    TypeError
        Where something in it is no array that safetensors knows; says under which key.
    """
    if not isinstance(state, Mapping):
        given = type(state).__name__
        raise TypeError(f"state() is a {given}; expected a dict of numeric arrays by name")
    return {name: _array(name, value) for name, value in state.items()}


def _array(name: str, value: Any) -> NDArray[Any]:
    try:
        array = np.asarray(value, order="C")
        save({str(name): np.empty(0, array.dtype)})
    except (KeyError, RuntimeError, TypeError, ValueError, SafetensorError) as error:
        given = type(value).__name__
        raise TypeError(f"state()[{name!r}] is a {given}; expected a numeric array") from error
    return array


@dataclass
class Checkpoint:
    """What a run needs to go on.

    Attributes
    ----------
    identity : str
        Of the configuration and the strategy; a checkpoint of another one is refused.
    round : int
        The last finished round.
    arrays : ArrayRecord
    state : dict[str, array]
        The strategy's own.
    devices : dict[int, bytes]
        What each device keeps, by node.
    progress : dict
        The outcome so far, as JSON.
    course : dict
        Where the clock stands and what is under way, as JSON.
    flights : dict[int, array]
        Weights that devices at work were sent, by node.
    """

    identity: str
    round: int
    arrays: ArrayRecord
    state: dict[str, NDArray[Any]] = field(default_factory=dict)
    devices: dict[int, bytes] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)
    course: dict[str, Any] = field(default_factory=dict)
    flights: dict[int, NDArray[Any]] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Serialise; no pickle."""
        tensors: dict[str, NDArray[Any]] = {
            f"arrays/{name}": array.numpy() for name, array in self.arrays.items()
        }
        tensors |= {f"state/{name}": np.asarray(a, order="C") for name, a in self.state.items()}
        for node, kept in self.devices.items():
            tensors[f"device/{node}"] = np.frombuffer(kept, np.uint8)
        tensors |= {f"flight/{node}": sent for node, sent in self.flights.items()}
        metadata = {
            "format": FORMAT,
            "identity": self.identity,
            "round": str(self.round),
            "progress": json.dumps(self.progress),
            "course": json.dumps(self.course),
        }
        return save(tensors, metadata)

    @classmethod
    def read(cls, path: Path, identity: str) -> "Checkpoint":
        """Read a checkpoint of this very run.

        Raises
        ------
        CheckpointError
            Where it is unreadable, of another format or of another run.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: not a readable checkpoint: {error}") from error
        if metadata.get("format") != FORMAT:
            raise CheckpointError(
                f"{path}: format {metadata.get('format')!r}; this version reads {FORMAT!r}"
            )
        if metadata.get("identity") != identity:
            raise foreign(path)
        try:
            return cls(
                identity=identity,
                round=int(metadata["round"]),
                arrays=ArrayRecord({k: Array(v) for k, v in _under(tensors, "arrays/").items()}),
                state=_under(tensors, "state/"),
                devices={int(k): v.tobytes() for k, v in _under(tensors, "device/").items()},
                progress=json.loads(metadata["progress"]),
                course=json.loads(metadata.get("course", "{}")),
                flights={int(k): v for k, v in _under(tensors, "flight/").items()},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: not a readable checkpoint: {error}") from error


def _under(tensors: dict[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
