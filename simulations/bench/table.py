"""The benchmark's rows for people."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def show_bench(rows: Sequence[dict[str, Any]], console: Console) -> None:
    """Print one table a workload."""
    for workload in dict.fromkeys(row["workload"] for row in rows):
        table = Table(title=workload, title_justify="left")
        for column in ("engine", "updates/s", "range", "× Ray", "× floor"):
            table.add_column(column, justify="left" if column == "engine" else "right")
        for row in rows:
            if row["workload"] == workload:
                table.add_row(*_cells(row))
        console.print(table)


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        str(row["engine"]),
        f"{row['updates_per_second']:.0f}",
        f"{row['min']:.0f}–{row['max']:.0f}",
        _ratio(row.get("ratio_to_ray")),
        _ratio(row.get("ratio_to_floor")),
    ]


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
