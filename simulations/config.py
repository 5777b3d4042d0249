"""Read a simulation file: TOML, overrides, defaults; all that is wrong in it, at once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from schemas.base import ConfigError, Strict, describe
from schemas.simulation import Simulation
from schemas.toml_file import allowed_keys, read_with
from server.strategies import installed
from server.strategies.buffered import unbuffered
from server.strategies.installed import Strategies, strategies
from simulations.data.base import DataError
from simulations.data.load import kinds
from simulations.data.paths import spelled_out


@dataclass(frozen=True)
class Loaded:
    """A checked simulation file.

    Attributes
    ----------
    path : Path
    config : Simulation
    parameters : dict[str, Strict]
        By strategy: those of ``config.strategy`` and of every baseline.
    """

    path: Path
    config: Simulation
    parameters: dict[str, Strict]


def load(path: Path, overrides: Sequence[str] = ()) -> Loaded:
    """Read and check a simulation file.

    Parameters
    ----------
    path : Path
    overrides : Sequence[str]
        ``key.path=value``, the value as TOML has it (a bare word is a string).

    Raises
    ------
    ConfigError
        With every problem found: file, key, value and what is allowed.
    """
    return check(path, read_with(path, overrides))


def check(path: Path, table: dict[str, Any]) -> Loaded:
    """Check a simulation file's table; see ``load``."""
    problems: list[str] = []
    config = None
    if {"base", "methods"} <= table.keys():
        raise ConfigError(str(path), ["a sweep file; flwr-sim sweep runs it"])
    try:
        config = Simulation.model_validate(table)
    except ValidationError as error:
        problems += describe(error.errors(), allowed_keys(Simulation))
    known = strategies()
    tables = table.get("strategies", {})
    if isinstance(tables, dict):  # what is no table is said already
        tables = {name: own if isinstance(own, dict) else {} for name, own in tables.items()}
    parameters, wrong = installed.check(known, _names(table, tables), tables)
    problems += wrong
    if config is not None:
        problems += _unreasonable(config)
    if problems or config is None:
        raise ConfigError(str(path), problems)
    return Loaded(path, config, parameters)


def json_schema() -> dict[str, Any]:
    """JSON Schema of a simulation file; what is installed is in it: strategies, data sources."""
    schema = Simulation.model_json_schema()
    properties = {}
    for name, strategy in strategies().items():
        table = strategy.Parameters.model_json_schema()
        schema.setdefault("$defs", {}).update(table.pop("$defs", {}))
        properties[name] = table
    tables = schema["properties"]["strategies"]
    tables.pop("patternProperties", None)  # any name: only installed ones are right
    tables |= {"properties": properties, "additionalProperties": False}
    schema["properties"]["strategy"]["enum"] = list(properties)
    schema["properties"]["baselines"]["items"]["enum"] = list(properties)
    _add_sources(schema)
    return schema


def _add_sources(schema: dict[str, Any]) -> None:
    """What ``data.kind`` may be, and the options that each has."""
    data, sources = schema["$defs"]["Data"], kinds()
    data["properties"]["kind"]["enum"] = list(sources)
    data["allOf"] = []
    for name, source in sources.items():
        options = source.Parameters.model_json_schema()
        schema["$defs"].update(options.pop("$defs", {}))
        named = {"properties": {"kind": {"const": name}}, "required": ["kind"]}
        then = {"properties": {"options": options}}
        data["allOf"].append({"if": named, "then": then})


def _names(table: dict[str, Any], tables: Any) -> list[tuple[str, str]]:
    """Every strategy named in the file, and under which key."""
    named = [("strategy", table.get("strategy", "semipfl"))]
    baselines = table.get("baselines", [])
    if isinstance(baselines, Iterable) and not isinstance(baselines, str):
        named += [("baselines", name) for name in baselines]
    if isinstance(tables, dict):
        named += [("strategies", name) for name in tables]
    return [(key, name) for key, name in named if isinstance(name, str)]


def _unreasonable(config: Simulation) -> list[str]:
    """What is well-formed and cannot be meant."""
    known = strategies()
    named = (config.strategy, *config.baselines)
    problems = _unbuffered(config, [name for name in named if name in known], known)
    try:
        spelled_out(config.data.path or "")
    except DataError as error:
        problems.append(str(error))
    cohort = config.cohort.size
    if config.synchronous and cohort and config.synchronous.min_replies > cohort:
        problems.append(
            f"synchronous.min_replies = {config.synchronous.min_replies}: a cohort has "
            f"{cohort} (cohort.size); no round could ever be applied"
        )
    if config.data.label_fraction > 0:
        return problems
    return problems + [
        f"data.label_fraction = 0: strategy {name!r} learns from clients' labels only; "
        "leave it out, or give a fraction above 0"
        for name in named
        if name in known and known[name].needs_labels
    ]


def _unbuffered(config: Simulation, named: list[str], known: Strategies) -> list[str]:
    """Strategies that cannot run as ``[asynchronous]`` asks."""
    if config.asynchronous is None:
        return []
    able = ", ".join(name for name, cls in known.items() if not unbuffered(cls))
    return [
        f"asynchronous: strategy {name!r} cannot learn from updates one by one: {why}; "
        f"those that can: {able}"
        for name in named
        if known[name].rounds != 0 and (why := unbuffered(known[name]))
    ]
