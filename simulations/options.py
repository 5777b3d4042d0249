"""Options that several commands of ``flwr-sim`` have."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """How results are printed."""

    table = "table"
    json = "json"


class Style(StrEnum):
    """How tables are printed that a document may want, too."""

    table = "table"
    markdown = "markdown"
    json = "json"


File = Annotated[Path, typer.Argument(help="A simulation file, e.g. simulations/wearables.toml.")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a key; repeatable."),
]
Formats = Annotated[Format, typer.Option("--format", help="For people, or for programs.")]
Styles = Annotated[
    Style, typer.Option("--format", help="For people, for a document, or for programs.")
]
