"""Where a source's files are."""

from pathlib import Path

from schemas.simulation import Data
from simulations.data.base import DataError


def configured(config: Data, folder: Path) -> Path | None:
    """Return ``data.path`` as seen from the simulation file's folder; None where it has none.

    Raises
    ------
    DataError
        Where nothing is there.
    """
    if config.path is None:
        return None
    path = folder / Path(config.path).expanduser()
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; data.path is read from {folder}")
    return path
