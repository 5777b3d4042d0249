"""``flwr-sim``: simulate, sweep, compare, measure."""

import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any, Final, TextIO, cast

import typer
from rich.console import Console

from schemas import streams
from server import garbage, version
from server.help import Teaching
from simulations import (
    bench_commands,
    data_commands,
    memory_commands,
    model_commands,
    strategy_commands,
)
from simulations.exits import BAD_INPUT, DONE, INTERRUPTED, explained
from simulations.options import File, Format, Formats, Sets
from simulations.output import Output

_INTERRUPTED: Final = "interrupted; a run goes on with --resume, a sweep by the same command"

app = typer.Typer(
    name="flwr-sim",
    cls=Teaching,
    help="Personalised federated learning on this machine, from one file.\n\n"
    "Exit codes: 0 done, 1 the run failed, 2 something wrong in a file or on the command line, "
    "130 interrupted (a run goes on with --resume, a sweep by the same command).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)


app.callback()(version.callback("flwr-sim"))


@app.command()
def run(
    file: File,
    set_: Sets = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The run folder; default runs/NAME-TIME.")
    ] = None,
    resume: Annotated[  # noqa: FBT002 — a flag of the command line
        bool, typer.Option("--resume", help="Go on with the interrupted run of this file.")
    ] = False,
    jobs: Annotated[
        int,
        typer.Option(
            min=1,
            help="Strategies to run at once, in processes of their own; the numbers are the same.",
        ),
    ] = 1,
    format_: Formats = Format.table,
) -> None:
    """Run a simulation: its strategy and its baselines, on the same devices.

    Example: flwr-sim run simulations/wearables.toml --set data.label_fraction=0.2
    """
    from schemas.toml_file import read_with

    table = read_with(file, set_ or ())  # torch takes seconds: a misspelt name is told before it
    from simulations import run as runs
    from simulations.config import check
    from simulations.progress import Progress
    from simulations.report.compare import days_table, method_table
    from simulations.report.files import RunError
    from simulations.report.folder import RunFolder

    loaded = check(file, table)
    if resume:
        folder = RunFolder.open(out) if out else runs.resumable(loaded)
    else:
        folder = RunFolder.create(loaded.config.name, out)
    with Progress(Console(stderr=True)) as progress:
        finished = runs.run(loaded, folder, progress, jobs)
    if format_ is Format.json:
        print(finished.summary.model_dump_json(indent=2))  # noqa: T201
    else:
        console = Console()
        console.print(method_table(finished.summary))
        if finished.summary.days:
            console.print(days_table(finished.summary))
        console.print(f"report: {folder.path / 'report.html'}", highlight=False, soft_wrap=True)
    if finished.summary.failed:
        raise RunError(f"no result of {', '.join(finished.summary.failed)}; the report says why")


@app.command()
def schema() -> None:
    """Print the simulation file's JSON Schema, for editors that complete and check."""
    from simulations.config import json_schema

    print(json.dumps(json_schema(), indent=2))  # noqa: T201


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    format_: Formats = Format.table,
) -> None:
    """Put runs side by side; a baseline without a result has a row of dashes, and the reason."""
    from simulations.report.compare import (
        compare_rows,
        data_differences,
        load_runs,
        show_comparison,
    )

    rows = compare_rows(load_runs(runs))
    if format_ is Format.json:
        print(json.dumps(rows, indent=2))  # noqa: T201
    else:
        show_comparison(rows, Console())
    for line in data_differences(runs):
        print(f"flwr-sim: {line}", file=sys.stderr)  # noqa: T201


@app.command("list")
def list_(
    folder: Annotated[Path, typer.Argument(help="Folder of runs.")] = Path("runs"),
    format_: Formats = Format.table,
) -> None:
    """List runs, finished and interrupted."""
    from simulations.report.compare import list_rows, show_list

    rows = list_rows(folder)
    if format_ is Format.json:
        print(json.dumps(rows, indent=2))  # noqa: T201
    else:
        show_list(rows, Console(), folder)


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="A sweep file, e.g. simulations/wisdm-sweep.toml.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where the runs and tables go; default runs/NAME.")
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Only this seed; repeatable. The rest keeps its place.")
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(
            min=1,
            help="Groups of cells (a seed and a label fraction) to run at once, in processes of "
            "their own; the numbers are the same.",
        ),
    ] = 1,
    again: Annotated[
        list[str] | None,
        typer.Option(metavar="LABEL", help="Run this method's cells anew; repeatable."),
    ] = None,
) -> None:
    """Run a grid of methods, label fractions and seeds; skip what is done; write one table.

    Interrupt it as you like: the same command goes on.

    Example: flwr-sim sweep simulations/wisdm-sweep.toml --jobs 8
    """
    from schemas.toml_file import read_toml

    if not file.is_fifo():  # which can be read once
        read_toml(file)  # as in ``run``
    from simulations.progress import Progress
    from simulations.sweep import run_sweep
    from simulations.sweep_cells import load_sweep

    with Progress(Console(stderr=True)) as progress:
        table = run_sweep(load_sweep(file), out, progress, seed or (), jobs, again or ())
    # Markdown, which a line broken in two would spoil.
    Console().print(table.read_text(), markup=False, highlight=False, soft_wrap=True)
    print(f"tables: {table}, {table.with_suffix('.csv')}", file=sys.stderr)  # noqa: T201


@app.command()
def bench(
    clients: Annotated[int, typer.Option(help="Clients a round.", min=1)] = 50,
    workers: Annotated[int, typer.Option(help="Processes of every engine.", min=1)] = 2,
    repeats: Annotated[int, typer.Option(help="Timings of each engine, in turns.", min=1)] = 5,
    format_: Formats = Format.table,
) -> None:
    """Measure client updates a second: LocalGrid, Flower's Ray simulation, and the bare floor.

    One run on one machine, the engines in turns: read the ratios, not the rates.
    """
    from simulations.bench.engines import compare as compare_engines
    from simulations.bench.memory import measure
    from simulations.bench.table import show_bench
    from simulations.bench.workloads import conv_autoencoder, flat_regression

    rows = []
    for workload in (flat_regression(), conv_autoencoder()):
        rows += compare_engines(workload, clients, workers, repeats)
    memory = measure(workers=workers)
    if format_ is Format.json:
        print(json.dumps({"speed": rows, "memory": memory}, indent=2))  # noqa: T201
        return
    console = Console()
    show_bench(rows, console)
    console.print(
        f"{memory['clients']:.0f} clients of the first workload: "
        f"{memory['megabytes']:.0f} MB in the whole process tree"
    )


app.command()(data_commands.data)
app.command()(strategy_commands.strategies)
app.command()(bench_commands.device_plan)
app.command()(model_commands.export)
app.command()(model_commands.quantized)
app.command()(model_commands.sentences)
app.command()(memory_commands.personalize)


def guarded(command: Callable[[], Any]) -> int:
    """Run a command; turn what can go wrong into one clear message and an exit code."""
    try:
        return _guarded(command)
    except KeyboardInterrupt:
        return _fail(_INTERRUPTED, INTERRUPTED)


def _guarded(command: Callable[[], Any]) -> int:
    try:
        command()
    except Exception as error:
        found = explained(error)
        if found is None:
            raise
        return _fail(*found)
    return DONE


def _fail(message: str, code: int) -> int:
    for line in message.splitlines():
        print(f"flwr-sim: {line}", file=sys.stderr)  # noqa: T201
    return code


def main() -> None:
    """Run ``flwr-sim``."""

    def command() -> None:
        try:
            code = app(standalone_mode=False)
        except typer.Abort as abort:  # what click makes of Ctrl-C …
            raise KeyboardInterrupt from abort
        except Exception as error:
            if hasattr(error, "show"):  # click's own usage errors know how to show themselves
                error.show()
                sys.exit(BAD_INPUT)
            raise
        if code == INTERRUPTED:  # … and what typer does
            raise KeyboardInterrupt

    streams.prepare()
    garbage.seldom()
    output = Output(sys.stdout)
    with redirect_stdout(cast("TextIO", output)):
        code = guarded(command)
        output.flush()
    sys.exit(code)


if __name__ == "__main__":
    main()
