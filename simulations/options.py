"""Options that several commands of ``flwr-sim`` have."""

from enum import StrEnum
from typing import Annotated

import typer


class Format(StrEnum):
    """How results are printed."""

    table = "table"
    json = "json"


Formats = Annotated[Format, typer.Option("--format", help="For people, or for programs.")]
