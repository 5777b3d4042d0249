"""Windows from files that a user names: to predict on, and to compare models on."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from client.bundle.predictor import check_rate, check_windows
from client.windows import PersonWindows
from schemas.base import ConfigError
from schemas.bundle import Card

_MOST: Final = 1 << 31  # bytes that an .npz may hold
_PAIRS: Final = (("X", "y"), ("windows", "labels"), ("test", "test_labels"))
_UNREADABLE: Final = (
    *(OSError, ValueError, EOFError, KeyError, MemoryError, zipfile.BadZipFile, zlib.error),
)


@dataclass(frozen=True)
class Labelled:
    """Windows and what they are.

    Attributes
    ----------
    windows : float32 (windows, time, channels)
    labels : int64 (windows,)
        Indices of the classes.
    """

    windows: NDArray[np.float32]
    labels: NDArray[np.int64]


def read_windows(path: Path, card: Card, hz: float | None = None) -> NDArray[np.float32]:
    """Windows of an ``.npy`` file, as the model takes them; the file is mapped, not unpickled.

    An ``.npz`` is taken as by ``read_labelled`` (``flwr-sim export --windows`` writes one); it
    needs no labels.

    Raises
    ------
    ConfigError
        No such file, no ``.npy``, or windows that do not fit: the message names the file.
    """
    if path.suffix == ".npz":
        arrays = _npz(path, labelled=False)
        return _fitting(path, arrays["windows"], card, hz, _rate(path, arrays))
    _refuse_pipe(path)
    try:
        found: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError) as error:
        raise ConfigError(str(path), [f"not a readable .npy file: {_said(error)}"]) from None
    return _fitting(path, found, card, hz)


def read_labelled(path: Path, card: Card) -> Labelled:
    """Labelled windows: an ``.npz`` with X and y (or windows and labels), or a person's folder.

    Of a person the test windows are taken, of an ``.npz`` of a person's too. Windows without a
    label (−1) are left out. ``hz`` and ``classes`` in an ``.npz`` have to be the model's.

    Raises
    ------
    ConfigError
        Names the file and what does not fit.
    """
    arrays = _folder(path) if path.is_dir() else _npz(path)
    windows, labels = arrays["windows"], arrays["labels"]
    if problem := _unlike(arrays, card):
        raise ConfigError(str(path), [problem])
    fitting = _fitting(path, windows, card, _rate(path, arrays))
    kept = labels >= 0
    return Labelled(fitting[kept], labels[kept].astype(np.int64))


def _unlike(arrays: dict[str, NDArray[Any]], card: Card) -> str | None:
    """What of the labels and classes is not of the card."""
    shape, labels = arrays["windows"].shape, arrays["labels"]
    if labels.dtype.kind not in "iu" or labels.shape != shape[:1]:
        said = f"labels {labels.dtype} {labels.shape} for windows {shape}"
        return f"{said}; expected one whole number each"
    if not (labels >= 0).any():
        return "no window has a label"
    if int(labels.max()) >= len(card.classes):
        return f"a label of {labels.max()}; the model has {len(card.classes)} classes, from 0"
    if "classes" in arrays and tuple(map(str, arrays["classes"].ravel())) != card.classes:
        return f"other classes than the model's, which are {', '.join(card.classes)}"
    return None


def _rate(path: Path, arrays: dict[str, NDArray[Any]]) -> float | None:
    """Samples a second, where the file says it."""
    rate = arrays.get("hz")
    if rate is None:
        return None
    wrong = rate.size != 1 or rate.dtype.kind not in "iuf"
    _refuse(path, wrong, f"hz of {rate.dtype} {rate.shape}; expected one number")
    return float(rate.item())


def _folder(path: Path) -> dict[str, NDArray[Any]]:
    try:
        person = PersonWindows.open(path)
    except ValueError as error:
        raise ConfigError(str(path), [str(error)]) from None
    return {"windows": person.test, "labels": person.test_labels}


def _npz(path: Path, *, labelled: bool = True) -> dict[str, NDArray[Any]]:
    _refuse_pipe(path)
    parts = ("windows", "labels") if labelled else ("windows",)
    wanted = "X and y" if labelled else "X, windows or test"
    try:
        with zipfile.ZipFile(path) as archive:
            declared = sum(entry.file_size for entry in archive.infolist())
        _refuse(path, declared > _MOST, f"holds {declared} bytes; at most {_MOST} are read")
        with np.load(path, allow_pickle=False) as found:
            pairs = (pair[: len(parts)] for pair in _PAIRS)
            pair = next((pair for pair in pairs if set(pair) <= set(found.files)), ())
            has = ", ".join(found.files[:8])
            _refuse(path, not pair, f"holds {has}; expected {wanted}")
            names = dict(zip(parts, pair, strict=True))
            names |= {name: name for name in ("hz", "classes") if name in found.files}
            return {key: found[name] for key, name in names.items()}
    except ConfigError:
        raise
    except _UNREADABLE as error:
        raise ConfigError(str(path), [f"not a readable .npz file: {_said(error)}"]) from None


def _refuse_pipe(path: Path) -> None:
    """A pipe would be waited on for ever."""
    _refuse(path, path.exists() and not path.is_file(), "is no plain file")


def _refuse(path: Path, wrong: bool, problem: str) -> None:  # noqa: FBT001
    if wrong:
        raise ConfigError(str(path), [problem])


def _fitting(
    path: Path, windows: NDArray[Any], card: Card, *rates: float | None
) -> NDArray[np.float32]:
    try:
        for hz in rates:
            check_rate(hz, card.input)
        return check_windows(windows, card.input)
    except ConfigError as error:
        raise ConfigError(str(path), error.problems) from None


def _said(error: BaseException) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text.replace("\n", " ")[:200]
