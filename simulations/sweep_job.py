"""A process that runs one group of a sweep's cells; ``simulations.sweep_jobs`` starts it.

It tells ``done``, a cell's title, and at the end ``failed``, what is wrong with the cells without a
result.
"""

from pathlib import Path
from typing import Any

from simulations.job import Relay, serve
from simulations.report.files import RunError
from simulations.run import prepare
from simulations.sweep_cells import load_sweep, run_group, tasks_of


def main() -> None:
    """Run the cells of the request."""
    serve(_run, every=60.0)


def _run(request: dict[str, Any], relay: Relay) -> dict[str, Any]:
    loaded = load_sweep(Path(request["file"]))
    tasks = [task for task in tasks_of(loaded) if task.key in request["cells"]]
    if len(tasks) != len(request["cells"]):
        raise RunError(f"{loaded.path}: was changed while its sweep began; start it again")
    prepare()
    return {"failed": run_group(tasks, Path(request["folder"]), relay, request["workers"])}
