"""``flwr-sim personalize``: one exchange with one person, before and after."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from simulations.options import Format, Formats


def personalize(
    run: Annotated[
        Path, typer.Argument(help="Folder of a finished run of functional-memory or personal.")
    ],
    person: Annotated[str, typer.Option(help="A client, or a person the run had not seen.")],
    strategy: Annotated[
        str | None, typer.Option(help="One of the run's; its main one if left out.")
    ] = None,
    format_: Formats = Format.table,
) -> None:
    """Show what one exchange is worth to a person: accuracy before and after, without a label.

    The device tells a condition made from its unlabelled windows, and gets what is made for it: an
    adapter, or (personal) a classifier that goes on to learn from the person's own windows.

    Example: flwr-sim personalize runs/functional-memory-… --person person-04
    """
    from simulations.personalize import personalize as exchange
    from simulations.progress import Progress

    with Progress(Console(stderr=True)) as progress:
        said = exchange(run, person, strategy, progress.note)
    if format_ is Format.json:
        print(json.dumps(said, indent=2))  # noqa: T201
        return
    seen = "never seen before" if said["unseen"] else "a client of the run"
    table = Table("", "accuracy", "macro-F1", title=f"{person}, {seen}")
    for name in ("before", "after"):
        table.add_row(name, f"{said[name]['accuracy']:.3f}", f"{said[name]['macro_f1']:.3f}")
    console = Console()
    console.print(table)
    console.print(
        f"{said['bytes_up']:,} bytes of condition up, {said['bytes_down']:,} bytes of weights and "
        f"plan down, for backbone {said['backbone'][:12]}",
        highlight=False,
    )
