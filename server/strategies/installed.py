"""Strategies that are installed, and what a file says of them."""

from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from typing import Any, Final

from pydantic import ValidationError

from schemas.base import Strict, describe
from server.strategies.base import EdgeStrategy

GROUP: Final = "flwr_edge.strategy"
Strategies = Mapping[str, type[EdgeStrategy]]


def strategies() -> dict[str, type[EdgeStrategy]]:
    """All installed strategies by name."""
    return {point.name: point.load() for point in sorted(entry_points(group=GROUP))}


def check(
    known: Strategies, names: Iterable[tuple[str, str]], tables: Any
) -> tuple[dict[str, Strict], list[str]]:
    """Parameters of the strategies that a file names, and what is wrong with names and tables.

    Parameters
    ----------
    known : Mapping[str, type[EdgeStrategy]]
    names : Iterable[tuple[str, str]]
        The key and the name that stands there.
    tables : Any
        What the file has as ``strategies``: parameters by name.
    """
    names = list(names)
    parameters: dict[str, Strict] = {}
    problems = [
        f"{key} = {name!r}: no such strategy; installed: {', '.join(known)}"
        for key, name in names
        if name not in known
    ]
    for name in dict.fromkeys(name for _, name in names if name in known):
        try:
            given = tables.get(name, {}) if isinstance(tables, dict) else {}
            parameters[name] = known[name].Parameters.model_validate(given)
        except ValidationError as error:
            fields = {"": sorted(known[name].Parameters.model_fields)}
            lines = describe(error.errors(), fields)
            problems += [f"strategies.{name}.{line}" for line in lines]
    return parameters, problems
