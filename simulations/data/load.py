"""Finding a data source by its name."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.metadata import EntryPoint
from pathlib import Path

from schemas.base import ConfigError
from schemas.plugins import entry_points
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
        Where no such source is installed, or one that ignores a key that is set; the message lists
        those that are, or that do not.
    DataError
        Where it is installed but broken.
    """
    installed = {point.name: point for point in entry_points(GROUP)}
    if config.kind not in installed:
        known = ", ".join(sorted(installed)) or "none (pip install flwr-edge registers ours)"
        raise ConfigError(
            "[data]", [f"data.kind = {config.kind!r}: no such data source; installed: {known}"]
        )
    found = _loaded(installed[config.kind])
    if problems := list(_ignored(config, found, installed.values())):
        raise ConfigError("[data]", problems)
    return found(config, folder)


def _ignored(
    config: Data, found: type[DataSource], installed: Iterable[EntryPoint]
) -> Iterator[str]:
    """What is set and would change nothing; a default may stand in the file."""
    fields = Data.model_fields
    for key in sorted(found.ignores):
        value = getattr(config, key)
        if value != fields[key].default:
            taking = ", ".join(sorted(_names_taking(key, installed)))
            yield (
                f"data.{key} = {value!r}: data.kind = {config.kind!r} does not use it; those that "
                f"do: {taking}"
            )


def _names_taking(key: str, installed: Iterable[EntryPoint]) -> Iterator[str]:
    for point in installed:
        with suppress(DataError):  # a broken one is no advice
            if key not in _loaded(point).ignores:
                yield point.name


def _loaded(point: EntryPoint) -> type[DataSource]:
    """Return the class that an entry point names."""
    try:
        found = point.load()
    except (ImportError, AttributeError) as error:
        raise DataError(
            f"data source {point.name!r} ({point.value}) cannot be loaded: {error}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, DataSource)):
        raise DataError(f"data source {point.name!r} ({point.value}) is no DataSource")
    return found
