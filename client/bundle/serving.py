"""A bundle that a daemon predicts with: opened once, and again when its file is another."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.bundle.predictor import Predictor
from client.bundle.reader import open_bundle


class Serving:
    """Predicts one window at a time.

    Parameters
    ----------
    path : Path
        The bundle.
    key : str, optional
        The fleet's public key: what it did not sign is refused.
    base : Path, optional
        The bundle that this one is a difference from.
    """

    def __init__(self, path: Path, key: str | None = None, base: Path | None = None) -> None:
        self._path, self._key, self._base = path, key, base
        self._opened: tuple[tuple[int, int], Predictor] | None = None

    def predictor(self) -> Predictor:
        """Return the model of the file as it is now.

        Raises
        ------
        OSError, BundleError, NotRunnableError
            Where it is not there, is refused, or does not run here.
        """
        found = self._path.stat()
        which = (found.st_ino, found.st_mtime_ns)  # a roll-out renames another file here
        if self._opened is None or self._opened[0] != which:
            opened = open_bundle(self._path, self._key, base=self._base)
            self._opened = which, Predictor(opened)
        return self._opened[1]

    def __call__(self, window: NDArray[np.floating]) -> dict[str, Any]:
        """Return the logits of a window (time, channels), its classes' names, the file's SHA-256.

        Raises
        ------
        ConfigError
            Where the window is not one of this model's; and what ``predictor`` raises.
        """
        model = self.predictor()
        (logits,) = model.logits(np.ascontiguousarray(window, np.float32)[None])
        return {
            "logits": logits.astype(np.float64),
            "classes": model.manifest.classes,
            "model": model.sha256,
        }
