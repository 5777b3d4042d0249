"""Strategies that are installed, and what a file says of them."""

from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint
from typing import Any, Final

from pydantic import ValidationError

from schemas.base import Strict, describe
from schemas.plugins import entry_points
from server.strategies.base import EdgeStrategy

GROUP: Final = "flwr_edge.strategy"
Strategies = Mapping[str, type[EdgeStrategy]]


class StrategyError(KeyError):
    """A strategy that is installed and cannot be used; says which and why."""

    def __str__(self) -> str:
        return str(self.args[0])


class Installed(Mapping[str, type[EdgeStrategy]]):
    """Those that can be loaded, by name; each is loaded when somebody asks for it.

    So somebody's broken one ends no run of another. Going through all of them loads all.

    Parameters
    ----------
    points : Iterable[EntryPoint]
    """

    def __init__(self, points: Iterable[EntryPoint]) -> None:
        self._points = {point.name: point for point in sorted(points)}

    def __getitem__(self, name: str) -> type[EdgeStrategy]:
        """Load one.

        Raises
        ------
        StrategyError
            Where it is broken or no strategy.
        """
        point = self._points[name]
        try:
            found = point.load()
        except Exception as error:  # what an import raises is theirs to choose
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise StrategyError(f"{name}: cannot be loaded: {said} ({point.value})") from error
        if lack := _lacking(found):
            raise StrategyError(f"{name}: {lack} ({point.value})")
        return found  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._points if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def problem(self, name: str) -> str | None:
        """What is wrong with a strategy that is installed and cannot be used."""
        try:
            self[name]
        except StrategyError as error:
            return str(error)
        except KeyError:  # not installed at all
            pass
        return None

    def problems(self) -> list[str]:
        """What is wrong, a line for each that cannot be used."""
        return [said for name in self._points if (said := self.problem(name))]


def strategies() -> Installed:
    """All installed strategies by name."""
    return Installed(entry_points(GROUP))


def about(strategy: type[EdgeStrategy]) -> str:
    """What a strategy is, in one line: the first of its docstring."""
    return (strategy.__doc__ or "").strip().partition("\n")[0]


def _lacking(found: Any) -> str:
    """What keeps a loaded object from being a strategy that can run; "" if nothing does."""
    if not (isinstance(found, type) and issubclass(found, EdgeStrategy)):
        return "is no EdgeStrategy; one of Flower's stands before ours: class X(flower.Y, FedAvg)"
    if found.__abstractmethods__:
        return f"does not define {', '.join(sorted(found.__abstractmethods__))}"
    table = getattr(found, "Parameters", None)
    if not (isinstance(table, type) and issubclass(table, Strict)):
        return "has no class Parameters of schemas.base.Strict"
    return ""


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
    problems = [_unknown(known, key, name) for key, name in names if name not in known]
    for name in dict.fromkeys(name for _, name in names if name in known):
        try:
            given = tables.get(name, {}) if isinstance(tables, dict) else {}
            parameters[name] = known[name].Parameters.model_validate(given)
        except ValidationError as error:
            fields = {"": sorted(known[name].Parameters.model_fields)}
            lines = describe(error.errors(), fields)
            problems += [f"strategies.{name}.{line}" for line in lines]
    return parameters, problems


def _unknown(known: Strategies, key: str, name: str) -> str:
    if isinstance(known, Installed) and (said := known.problem(name)):
        return f"{key} = {name!r}: {said.removeprefix(f'{name}: ')}"
    return f"{key} = {name!r}: no such strategy; installed: {', '.join(known)}"
