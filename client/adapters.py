"""Adapters that a device keeps, each with the condition that it was made for.

A device compares its condition of today with those: it goes on with the adapter that it has, brings
an older one back, or asks for another. That needs no label, and a server only where it asks.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.files import write_private
from schemas.distance import distance
from schemas.drift import Choice

Floats = NDArray[np.float32]
_log = logging.getLogger("flwr_edge.adapters")
_FILE: Final = "adapters.safetensors"


class AdapterError(ValueError):
    """A condition or an adapter that a device cannot take; nothing is kept of it."""


@dataclass(frozen=True)
class Chosen:
    """What a condition came to.

    Attributes
    ----------
    choice : "keep", "back" or "ask"
    distance : float or None
        To the nearest condition kept; None where none is.
    """

    choice: Choice
    distance: float | None


class KeptAdapters:
    """At most so many adapters of one backbone; the one used last is the present one.

    Parameters
    ----------
    folder : Path or None
        Holds them in one file, written beside and renamed; without it they are gone with this
        object, and a device asks each time.
    backbone : str
        SHA-256 of the network that conditions are measured on and adapters are made for: those of
        another one are dropped.
    most : int
        Of adapters kept; the one unused for longest makes room.

    Attributes
    ----------
    dropped : str
        Why what lay there was dropped; empty where nothing was.
    """

    def __init__(self, folder: Path | None, backbone: str, most: int = 8) -> None:
        if most < 1:
            raise AdapterError(f"{most} adapters are to be kept; at least 1 is")
        self.folder, self.backbone, self.most, self.dropped = folder, backbone, most, ""
        self._conditions: list[Floats] = []
        self._adapters: list[Floats] = []
        self._carried: Floats | None = None
        self._asked: Floats | None = None
        if folder is not None and (folder / _FILE).is_file():
            self._read(folder / _FILE)

    def __len__(self) -> int:
        return len(self._adapters)

    @property
    def present(self) -> Floats:
        """The adapter in use (length,).

        Raises
        ------
        AdapterError
            Where there is none.
        """
        if not self._adapters:
            why = f" ({self.dropped})" if self.dropped else ""
            raise AdapterError(f"no adapter of backbone {self.backbone[:12]} is kept here{why}")
        return self._adapters[-1]

    def choose(self, condition: Floats, threshold: float | None) -> Chosen:
        """Keep the present adapter, bring back the one of the nearest condition, or ask.

        Parameters
        ----------
        condition : (tokens, channels)
            As measured today.
        threshold : float or None
            The adapter of a condition nearer than this serves (``schemas.distance``); None:
            whichever is present does.

        Raises
        ------
        AdapterError
            Where the condition is not finite or has another shape than those kept.
        """
        today = self._checked(condition)
        far = [distance(today, kept) for kept in self._conditions]
        if not far:
            return self._ask(today, None)
        if threshold is None:
            return Chosen("keep", far[-1])
        nearest = len(far) - 1 - int(np.argmin(far[::-1]))  # of equals, the one used last
        if not far[nearest] < threshold:
            return self._ask(today, far[nearest])
        if nearest == len(far) - 1:
            return Chosen("keep", far[nearest])
        self._write(_moved(self._conditions, nearest), _moved(self._adapters, nearest), None)
        return Chosen("back", far[nearest])

    def take(self, adapter: Floats) -> None:
        """Keep and use the adapter made for the condition that was asked with last.

        Raises
        ------
        AdapterError
            Where none was asked for, or it is not finite or not as long as those kept.
        """
        if self._asked is None:
            if self._adapters and np.array_equal(self._adapters[-1], adapter):
                return  # a task that is done again after a power cut
            raise AdapterError("an adapter came that this device did not ask for")
        if adapter.ndim != 1 or adapter.dtype != np.float32 or not np.isfinite(adapter).all():
            raise AdapterError("an adapter must be a vector of finite float32")
        if self._adapters and adapter.shape != self._adapters[0].shape:
            expected = self._adapters[0].size
            raise AdapterError(f"the adapter has {adapter.size} numbers; those kept, {expected}")
        conditions, adapters = [*self._conditions, self._asked], [*self._adapters, adapter.copy()]
        self._write(conditions[-self.most :], adapters[-self.most :], None)

    def forget(self) -> None:
        """Keep none, and carry nothing."""
        self._carried = None
        self._write([], [], None)

    def carried(self, length: int) -> Floats | None:
        """What the last evaluation left for the next (length,); None where it left nothing.

        Raises
        ------
        AdapterError
            Where it is of another length.
        """
        if self._carried is not None and self._carried.size != length:
            raise AdapterError(f"{self._carried.size} numbers are carried here; {length} are asked")
        return self._carried

    def carry(self, numbers: Floats) -> None:
        """Leave finite numbers (length,) for the next evaluation; one done again counts again."""
        self._carried = numbers.astype(np.float32)
        self._write(self._conditions, self._adapters, self._asked)

    def _ask(self, condition: Floats, far: float | None) -> Chosen:
        self._write(self._conditions, self._adapters, condition)
        return Chosen("ask", far)

    def _checked(self, condition: Floats) -> Floats:
        if condition.ndim != 2 or not condition.size or not np.isfinite(condition).all():
            raise AdapterError("a condition must be tokens × channels of finite numbers")
        if self._conditions and condition.shape != self._conditions[0].shape:
            raise AdapterError(
                f"the condition is {list(condition.shape)}; those kept are "
                f"{list(self._conditions[0].shape)}"
            )
        return condition.astype(np.float32)

    def _write(
        self, conditions: list[Floats], adapters: list[Floats], asked: Floats | None
    ) -> None:
        if self.folder is not None:
            self._save(self.folder, conditions, adapters, asked)
        self._conditions, self._adapters, self._asked = conditions, adapters, asked

    def _save(
        self, folder: Path, conditions: list[Floats], adapters: list[Floats], asked: Floats | None
    ) -> None:
        from safetensors.numpy import save

        arrays = {} if asked is None else {"asked": asked}
        if self._carried is not None:
            arrays["carried"] = self._carried
        if adapters:
            arrays |= {"conditions": np.stack(conditions), "adapters": np.stack(adapters)}
        folder.mkdir(parents=True, exist_ok=True)
        write_private(folder / _FILE, save(arrays, {"backbone": self.backbone}))

    def _read(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "numpy") as file:
                found = (file.metadata() or {}).get("backbone", "")
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self._load(found, arrays)
        except (OSError, SafetensorError, TypeError, ValueError) as error:
            self.dropped = f"{path.name}: {error}; dropped"
            _log.warning("%s", self.dropped)

    def _load(self, backbone: str, arrays: dict[str, Floats]) -> None:
        if backbone != self.backbone:
            raise AdapterError(f"those kept were of backbone {backbone[:12] or '(none)'}")
        conditions, adapters = arrays.get("conditions"), arrays.get("adapters")
        carried = arrays.get("carried", np.zeros(0, np.float32))
        if carried.ndim != 1 or carried.dtype != np.float32 or not np.isfinite(carried).all():
            raise AdapterError("what was carried is no vector of finite float32")
        asked = arrays.get("asked")
        if (conditions is None) != (adapters is None):
            raise AdapterError("conditions without adapters, or the other way round")
        if conditions is not None and adapters is not None:
            fit = conditions.ndim == 3 and adapters.ndim == 2 and len(conditions) == len(adapters)
            if not fit or {conditions.dtype, adapters.dtype} != {np.dtype(np.float32)}:
                raise AdapterError("conditions and adapters that do not fit each other")
            if not np.isfinite(conditions).all() or not np.isfinite(adapters).all():
                raise AdapterError("NaN or infinity in what was kept")
            self._conditions = list(conditions[-self.most :])
            self._adapters = list(adapters[-self.most :])
        self._asked = None if asked is None else self._checked(asked)
        self._carried = carried if carried.size else None


def _moved(rows: list[Floats], index: int) -> list[Floats]:
    return [*rows[:index], *rows[index + 1 :], rows[index]]
