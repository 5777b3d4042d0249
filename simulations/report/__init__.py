"""What a run leaves behind: ``RunFolder``, ``summarise``, the report, and runs side by side."""

from simulations.report.compare import (
    compare_rows,
    data_differences,
    list_rows,
    load_runs,
    method_table,
    show_comparison,
    show_list,
)
from simulations.report.files import RunError, atomic_write
from simulations.report.folder import RunFolder
from simulations.report.summarise import summarise

__all__ = [
    "RunError",
    "RunFolder",
    "atomic_write",
    "compare_rows",
    "data_differences",
    "list_rows",
    "load_runs",
    "method_table",
    "show_comparison",
    "show_list",
    "summarise",
]
