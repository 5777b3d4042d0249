"""``flwr-sim strategies``: which there are, and what can be set of one."""

import json
import sys
from collections.abc import Iterable
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.table import Table
from rich.text import Text

from schemas.base import ConfigError
from simulations.options import Format, Formats


def strategies(
    name: Annotated[str | None, typer.Argument(help="Show the whole of this one.")] = None,
    format_: Formats = Format.table,
) -> None:
    """List the installed strategies; of one that is named, its parameters too.

    Example: flwr-sim strategies fedprox
    """
    from server.strategies.installed import strategies as installed

    known = installed()
    for problem in known.problems():
        print(problem, file=sys.stderr)  # noqa: T201
    if name is not None and name not in known:
        problem = f"{name!r}: no such strategy; there are {', '.join(known)}"
        raise ConfigError("strategies", [problem])
    chosen = [name] if name is not None else list(known)
    rows = [_describe(each, known[each]) for each in chosen]
    if format_ is Format.json:
        print(json.dumps(rows, indent=2))  # noqa: T201
        return
    console = Console()
    console.print(_table([(row["name"], row["about"]) for row in rows], "bold"))
    if name is not None:
        console.print(_table(list(map(_cells, rows[0]["parameters"].items()))))


def _describe(name: str, cls: Any) -> dict[str, Any]:
    fields = cls.Parameters.model_fields
    return {
        "name": name,
        "about": (cls.__doc__ or "").strip().partition("\n")[0],
        "needs_labels": cls.needs_labels,
        "parameters": {
            key: {
                "default": to_jsonable_python(_default_of(field)),
                "required": field.is_required(),
                "about": field.description or "",
            }
            for key, field in fields.items()
        },
    }


def _default_of(field: FieldInfo) -> Any:
    """None where there is none: somebody else's parameter may have to be given."""
    return None if field.is_required() else field.get_default(call_default_factory=True)


def _cells(parameter: tuple[str, dict[str, Any]]) -> tuple[str, str]:
    key, said = parameter
    given = "must be given" if said["required"] else f"= {said['default']!r}"
    return f"  {key} {given}", said["about"]


def _table(rows: Iterable[tuple[str, str]], style: str = "") -> Table:
    """A name and a text a row; a text that is long stays in its column."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style=style, overflow="fold")
    table.add_column()
    for name, text in rows:
        table.add_row(Text(name), Text(text.replace("``", "`")))  # others' texts are no markup
    return table
