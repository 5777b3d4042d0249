"""A person's windows on the device: a folder of ``.npy`` files, read in place."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PersonWindows:
    """One person's windows.

    Attributes
    ----------
    train : (windows, time, channels)
        Training windows, in the order of time.
    labels : (windows,), int64
        Their classes; −1 where the person gave no label.
    test, test_labels
        The later part, for evaluation only.
    train_at, test_at : float
        When the last of each part came, Unix time; 0 where that is not known.
    """

    train: NDArray[np.floating]
    labels: NDArray[np.int64]
    test: NDArray[np.floating]
    test_labels: NDArray[np.int64]
    train_at: float = field(default=0.0, kw_only=True)
    test_at: float = field(default=0.0, kw_only=True)

    @classmethod
    def open(cls, folder: Path) -> "PersonWindows":
        """Map a person's folder into memory.

        Raises
        ------
        ValueError
            Where a file is missing, has another rank, type or counts that do not match.
        """
        parts = {}
        for name in ("train", "labels", "test", "test_labels"):
            path = folder / f"{name}.npy"
            try:
                parts[name] = np.lib.format.open_memmap(path, mode="r")  # never unpickles
            except (OSError, ValueError) as error:
                raise ValueError(f"{path}: not a readable .npy file: {error}") from error
        windows = cls(*parts.values())
        for x, y in ((windows.train, windows.labels), (windows.test, windows.test_labels)):
            if x.ndim != 3 or y.shape != x.shape[:1]:
                raise ValueError(
                    f"{folder}: windows of shape {x.shape} with labels of shape {y.shape}; "
                    "expected (windows, time, channels) and (windows,)"
                )
            if x.dtype.kind != "f" or y.dtype.kind != "i":
                raise ValueError(
                    f"{folder}: windows of {x.dtype} with labels of {y.dtype}; expected floating "
                    "and signed integer numbers"
                )
        return windows

    def save(self, folder: Path) -> None:
        """Write the folder that ``open`` reads."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("train", "labels", "test", "test_labels"):
            # Through Python's own file: numpy's writer is silent when a full disk cuts it short.
            with (folder / f"{name}.npy").open("wb") as file:
                array = np.ascontiguousarray(getattr(self, name))
                header = np.lib.format.header_data_from_array_1_0(array)
                np.lib.format.write_array_header_1_0(file, header)
                file.write(array.data.cast("B") if array.size else b"")

    @property
    def newest(self) -> tuple[NDArray[np.floating], float | None]:
        """The window that came last, of whichever part, and when; None where that is not known.

        Raises
        ------
        IndexError
            Where there is none.
        """
        parts = ((self.train, self.train_at), (self.test, self.test_at))
        windows, at = max(parts, key=lambda part: (len(part[0]) > 0, part[1]))
        return windows[-1], at or None

    @property
    def labelled(self) -> NDArray[np.intp]:
        """Indices of the training windows that carry a label."""
        return np.flatnonzero(self.labels >= 0)
