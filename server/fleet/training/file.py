"""Read a training file, and all that is wrong in it at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from schemas.base import ConfigError, Strict, describe
from schemas.toml_file import allowed_keys, override, read_toml
from schemas.training import Training
from server.strategies.base import EdgeStrategy

GROUP: Final = "flwr_edge.strategy"


@dataclass(frozen=True)
class Loaded:
    """A checked training file.

    Attributes
    ----------
    path : Path
    training : Training
    strategy : type[EdgeStrategy]
    parameters : Strict
        The strategy's table.
    """

    path: Path
    training: Training
    strategy: type[EdgeStrategy]
    parameters: Strict


def load(path: Path, overrides: Sequence[str] = ()) -> Loaded:
    """Read and check a training file.

    Parameters
    ----------
    path : Path
    overrides : Sequence[str]
        ``key.path=value``, the value as TOML has it (a bare word is a string).

    Raises
    ------
    ConfigError
        With every problem found: key, value and what is allowed.
    """
    table = read_toml(path)
    if problems := [problem for text in overrides if (problem := override(table, text))]:
        raise ConfigError("--set", problems)
    try:
        training = Training.model_validate(table)
    except ValidationError as error:
        raise ConfigError(str(path), describe(error.errors(), allowed_keys(Training))) from None
    strategy = _strategy(path, training)
    try:
        given = training.strategies.get(training.strategy, {})
        parameters = strategy.Parameters.model_validate(given)
    except ValidationError as error:
        lines = describe(error.errors(), {"": sorted(strategy.Parameters.model_fields)})
        name = training.strategy
        raise ConfigError(str(path), [f"strategies.{name}.{line}" for line in lines]) from None
    return Loaded(path, training, strategy, parameters)


def _strategy(path: Path, training: Training) -> type[EdgeStrategy]:
    points = {point.name: point for point in entry_points(group=GROUP)}
    named = [("strategy", training.strategy), *(("strategies", n) for n in training.strategies)]
    known = ", ".join(sorted(points))
    if unknown := [(key, name) for key, name in named if name not in points]:
        lines = [f"{key} = {name!r}: no such strategy; installed: {known}" for key, name in unknown]
        raise ConfigError(str(path), lines)
    found: type[EdgeStrategy] = points[training.strategy].load()
    if found.rounds == 0:
        problem = f"strategy = {training.strategy!r}: it has no rounds: there is nothing to train"
        raise ConfigError(str(path), [problem])
    return found
