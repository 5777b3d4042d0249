"""Read a training file, and all that is wrong in it at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from schemas.base import ConfigError, Strict, describe
from schemas.toml_file import allowed_keys, read_with
from schemas.training import Training
from server.strategies.base import EdgeStrategy
from server.strategies.installed import check, strategies


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
    table = read_with(path, overrides)
    problems: list[str] = []
    training = None
    try:
        training = Training.model_validate(table)
    except ValidationError as error:
        problems += describe(error.errors(), allowed_keys(Training))
    known, name, tables = strategies(), table.get("strategy"), table.get("strategies", {})
    named = [("strategy", name)] if isinstance(name, str) else []
    named += [("strategies", each) for each in tables] if isinstance(tables, dict) else []
    parameters, wrong = check(known, named, tables)
    problems += wrong
    if isinstance(name, str) and name in known and known[name].rounds == 0:
        problems.append(f"strategy = {name!r}: it has no rounds: there is nothing to train")
    if problems or training is None:
        raise ConfigError(str(path), problems)
    return Loaded(path, training, known[training.strategy], parameters[training.strategy])
