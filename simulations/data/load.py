"""Finding a data source by its name."""

from importlib.metadata import entry_points
from pathlib import Path

from schemas.base import ConfigError
from schemas.simulation import Data
from simulations.data.base import DataError, DataSource

GROUP = "flwr_edge.data_source"


def source(config: Data, folder: Path) -> DataSource:
    """Return the source that ``data.kind`` names.

    Parameters
    ----------
    config : Data
        The simulation file's ``[data]``.
    folder : Path
        The simulation file's folder.

    Raises
    ------
    ConfigError
        Where no such source is installed; the message lists those that are.
    DataError
        Where it is installed but broken.
    """
    installed = {point.name: point for point in entry_points(group=GROUP)}
    if config.kind not in installed:
        known = ", ".join(sorted(installed)) or "none (pip install flwr-edge registers ours)"
        raise ConfigError(
            "[data]", [f"data.kind = {config.kind!r}: no such data source; installed: {known}"]
        )
    point = installed[config.kind]
    try:
        found = point.load()
    except (ImportError, AttributeError) as error:
        raise DataError(
            f"data source {point.name!r} ({point.value}) cannot be loaded: {error}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, DataSource)):
        raise DataError(f"data source {point.name!r} ({point.value}) is no DataSource")
    return found(config, folder)
