"""Finding a data source by its name."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.metadata import EntryPoint
from pathlib import Path

from pydantic import ValidationError

from schemas.base import ConfigError, Strict, describe
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
        those that are, or that do not. And where its own ``[data.options]`` are wrong.
    DataError
        Where it is installed but broken.
    """
    found = kind_of(config)
    problems = [*_ignored(config, found, _installed().values()), *_misfit(config, found)]
    if problems:
        raise ConfigError("[data]", problems)
    return found(config, folder)


def kind_of(config: Data) -> type[DataSource]:
    """Return the class that ``data.kind`` names; see ``source``."""
    installed = _installed()
    if config.kind not in installed:
        known = ", ".join(sorted(installed)) or "none (pip install flwr-edge registers ours)"
        raise ConfigError(
            "[data]", [f"data.kind = {config.kind!r}: no such data source; installed: {known}"]
        )
    return _loaded(installed[config.kind])


def _installed() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(GROUP)}


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


def _misfit(config: Data, found: type[DataSource]) -> list[str]:
    """What is wrong in ``[data.options]``."""
    try:
        found.Parameters.model_validate(config.options)
    except ValidationError as error:
        known = sorted(found.Parameters.model_fields)
        lines = describe(error.errors(), {"": known or [f"none by {config.kind!r}"]})
        return [f"data.options.{line}" for line in lines]
    return []


def kinds() -> dict[str, type[DataSource]]:
    """What ``data.kind`` may be: every installed source that can be loaded."""
    return dict(sorted(_loadable(_installed().values()).items()))


def _names_taking(key: str, installed: Iterable[EntryPoint]) -> Iterator[str]:
    return (name for name, found in _loadable(installed).items() if key not in found.ignores)


def _loadable(installed: Iterable[EntryPoint]) -> dict[str, type[DataSource]]:
    found = {}
    for point in installed:
        with suppress(DataError):  # a broken one is no advice
            found[point.name] = _loaded(point)
    return found


def _loaded(point: EntryPoint) -> type[DataSource]:
    """Return the class that an entry point names."""
    where = f"data source {point.name!r} ({point.value})"
    try:
        found = point.load()
    except Exception as error:  # what an import raises is theirs to choose
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataError(f"{where} cannot be loaded: {said}") from error
    if not (isinstance(found, type) and issubclass(found, DataSource)):
        raise DataError(f"{where} is no DataSource")
    if found.__abstractmethods__:
        raise DataError(f"{where} does not define {', '.join(sorted(found.__abstractmethods__))}")
    if not issubclass(found.Parameters, Strict):
        raise DataError(f"{where} has Parameters that are no schemas.base.Strict")
    return found
