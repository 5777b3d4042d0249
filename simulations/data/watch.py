"""The smartwatch recordings that the package seglearn ships."""

from collections.abc import Mapping
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from typing import Any

import numpy as np

from simulations.data.base import DataError, DataSource, Recordings
from simulations.data.facts import SIX_CHANNEL_MAGNITUDES, SIX_CHANNELS
from simulations.data.windows import Stream, cut

HZ = 50.0
NOTES = (
    (
        "seglearn's smartwatch set (Burns et al. 2018, arXiv:1802.01489): every person did every "
        "exercise twice, with the watch on the left and on the right wrist; both are in training "
        "and in test"
    ),
)


class WatchSource(DataSource):
    """Ten persons, seven shoulder exercises, accelerometer and gyroscope at 50 Hz.

    Windows of ``data.window_seconds`` are cut, with ``data.overlap``, within each recording, and
    each of the 140 recordings is a stream. Streams are numbered by person, exercise and side (left
    before right). It needs no ``data.path``.
    """

    ignores = frozenset({"path", "source_days", "client_days", "held_out"})
    expected = (140, 10)
    """Recordings and persons."""

    def load(self) -> Recordings:
        """Return all windows, float32."""
        return self.recordings(watch_set())

    def recordings(self, watch: Mapping[str, Any]) -> Recordings:
        """Turn what ``seglearn.datasets.load_watch`` returns into recordings.

        Raises
        ------
        DataError
            Where counts or shapes are not those of the set, or no recording is as long as a window.
        """
        try:
            streams, names = self._streams(watch)
            classes = tuple(str(name) for name in watch["y_labels"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise DataError(f"seglearn's watch set has not the known form: {error!r}") from error
        length = self._length(min(len(stream.signal) for stream in streams))
        windows = cut(streams, length, self.config.overlap)
        return Recordings(
            x=windows.x,
            y=windows.y,
            person=windows.person,
            stream=windows.stream,
            start=windows.start,
            persons=names,
            classes=classes,
            channels=SIX_CHANNELS,
            hz=HZ,
            magnitudes=SIX_CHANNEL_MAGNITUDES,
            notes=NOTES,
        )

    def _streams(self, watch: Mapping[str, Any]) -> tuple[list[Stream], tuple[str, ...]]:
        """Return the recordings by person, exercise and side, and the persons' names."""
        signals = [np.asarray(signal) for signal in watch["X"]]
        subjects, person = np.unique(watch["subject"], return_inverse=True)
        found = (len(signals), len(subjects))
        if found != self.expected:
            raise DataError(
                f"seglearn's watch set has {found[0]} recordings of {found[1]} persons; expected "
                f"{self.expected[0]} of {self.expected[1]}: is another version installed?"
            )
        for index, signal in enumerate(signals):
            if signal.ndim != 2 or signal.shape[1] != 6 or not np.isfinite(signal).all():
                raise DataError(
                    f"seglearn's watch set: recording {index} is no finite (samples, 6) array"
                )
        order = np.lexsort((watch["side"], watch["y"], person))
        streams = [Stream(signals[i], int(person[i]), int(watch["y"][i])) for i in order]
        return streams, tuple(f"person-{number + 1:02d}" for number in range(len(subjects)))

    def _length(self, shortest: int) -> int:
        """Return the samples a window."""
        length = max(2, round(self.config.window_seconds * HZ))
        if length > shortest:
            raise DataError(
                f"data.window_seconds = {self.config.window_seconds:g}: the shortest recording of "
                f"the watch set lasts {shortest / HZ:.1f} s; a few seconds are right"
            )
        return length


def watch_set() -> Mapping[str, Any]:
    """Load the set by the package's own reader, a module that needs NumPy alone.

    The package itself would import scikit-learn, SciPy and pandas: seconds, and 160 MB.

    Raises
    ------
    DataError
        Where the package is not there.
    """
    try:
        watch: Mapping[str, Any] = _reader().load_watch()
    except (AttributeError, ImportError, OSError, ValueError) as error:
        raise DataError(
            "data.kind = 'watch' needs the package seglearn "
            f"(pip install 'flwr-edge[sim]'): {error}"
        ) from error
    return watch


def _reader() -> Any:
    package = find_spec("seglearn")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("No module named 'seglearn'")
    path = Path(package.origin).with_name("datasets.py")
    loader = SourceFileLoader("seglearn_datasets", str(path))
    reader = module_from_spec(ModuleSpec(loader.name, loader, origin=str(path)))
    reader.__file__ = str(path)  # beside which it finds the set
    loader.exec_module(reader)
    return reader
