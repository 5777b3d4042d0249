"""``flwr-sim device-plan``: a simulation's task in a folder, for a device to be measured with."""

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from simulations.options import File, Format, Formats, Sets


def device_plan(
    file: File,
    out: Annotated[
        Path, typer.Option("--out", help="The folder to write: a new one, or an empty one.")
    ],
    set_: Sets = None,
    format_: Formats = Format.table,
) -> None:
    """Write what a simulation asks of a device, to measure a device that learns it.

    The folder holds one person's windows and what that person's device is asked in the first
    round: the plan, the graphs that it runs, and the weights that it starts from. Copy it to the
    device and measure there what learning takes: flwr-edge bench footprint --plan FOLDER

    Example: flwr-sim device-plan simulations/wearables.toml --set strategy=fedavg --out watch
    """
    from schemas.toml_file import read_with

    table = read_with(file, set_ or ()) | {"baselines": []}  # of which a device hears nothing
    from simulations.bench.device_plan import write_plan
    from simulations.config import check
    from simulations.progress import Progress

    loaded = check(file, table)
    with Progress(Console(stderr=True)) as progress:
        measured = write_plan(loaded, out, progress.note)
    said = {
        "name": measured.name,
        "out": str(out),
        "weights": measured.plan.length,
        "graphs": len(measured.plan.graphs()),
        "bytes_graphs": sum(map(len, measured.graphs.values())),
    }
    if format_ is Format.json:
        print(json.dumps(said, indent=2))  # noqa: T201
        return
    for name, value in said.items():
        print(f"{name:<12} {value}")  # noqa: T201
    print(f"measure with: flwr-edge bench footprint --plan {shlex.quote(str(out))}")  # noqa: T201
