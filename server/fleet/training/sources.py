"""The operator's own labelled windows; where there are none, a strategy that needs them says so."""

import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from hypernet.networks.classifier import Classifier
from hypernet.networks.inputs import InputSpec
from hypernet.source_training import train_source
from hypernet.sources import Sources
from schemas.base import ConfigError
from schemas.training import Training, Windows


class _Absent(list[Any]):
    """In the place of sources: whoever looks at it learns what is missing."""

    def __init__(self, missing: Callable[[], NoReturn]) -> None:
        super().__init__()
        self._missing = missing

    def __len__(self) -> int:
        return self._missing()

    def __iter__(self) -> Any:
        self._missing()

    def __getitem__(self, _: Any) -> Any:
        self._missing()


def read_sources(training: Training, file: Path) -> tuple[Sources, str]:
    """Sources as strategies take them, and their digest.

    Parameters
    ----------
    training : Training
    file : Path
        The training file: paths in it start at its folder, and errors name it.

    Raises
    ------
    ConfigError
        Where they cannot be read, or do not fit ``[windows]``. Without ``[sources]``: as soon as a
        strategy looks at them.
    """
    windows = training.windows
    spec = InputSpec(windows.time, windows.channels, windows.magnitudes)
    if training.sources is None:
        absent = _Absent(lambda: _missing(training.strategy, file))
        return Sources(spec, absent, absent, len(windows.classes)), ""
    path = file.parent / training.sources.path
    try:
        data = path.read_bytes()
        x, y, subject = _arrays(data, windows)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        what = getattr(error, "strerror", None) or str(error)
        raise ConfigError(str(file), [f"sources.path: {path}: {what}"]) from None
    rows = [np.flatnonzero(subject == person) for person in np.unique(subject)]
    persons = [torch.from_numpy(np.ascontiguousarray(x[row])) for row in rows]
    labels = [torch.from_numpy(y[row]) for row in rows]
    digest = hashlib.sha256(data).hexdigest()
    return Sources(spec, persons, labels, len(windows.classes)), digest


class SourceModel:
    """The network trained on the sources, at its first call."""

    def __init__(
        self, training: Training, sources: Sources, file: Path, tell: Callable[[str], None]
    ) -> None:
        self._training, self._sources, self._file, self._tell = training, sources, file, tell
        self._made: Classifier | None = None

    def __call__(self) -> Classifier:
        """Return it."""
        training = self._training
        if training.sources is None:
            _missing(training.strategy, self._file)
        if self._made is None:
            self._tell(f"training on the sources: {training.source.steps} steps")
            args = (self._sources, training.model, training.source, training.seed)
            self._made = train_source(*args)
        return self._made


def _missing(strategy: str, file: Path) -> NoReturn:
    problem = (
        f"strategy = {strategy!r}: as it is set it begins with labelled windows of volunteers; "
        "name their .npz file with sources.path, or choose one that begins without, as fedavg "
        'does with strategies.fedavg.start = "random"'
    )
    raise ConfigError(str(file), [problem])


def _arrays(
    data: bytes, windows: Windows
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[Any]]:
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        x, y = file["X"].astype(np.float32), file["y"].astype(np.int64)
        subject = file["subject"]
    wanted = (len(y), windows.time, windows.channels)
    if x.shape != wanted or subject.shape != y.shape or not len(y):
        raise ValueError(
            f"X {x.shape}, y {y.shape}, subject {subject.shape}: expected (windows, "
            f"{windows.time}, {windows.channels}), (windows,) and (windows,)"
        )
    if not np.isfinite(x).all():
        raise ValueError("X holds NaN or infinity")
    if y.min() < 0 or y.max() >= len(windows.classes):
        raise ValueError(f"y: expected 0 to {len(windows.classes) - 1}, as windows.classes counts")
    return x, y, subject
