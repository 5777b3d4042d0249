"""Runs side by side: rows for ``--format json``, tables for the terminal."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from schemas.summary import MethodSummary, Summary
from simulations.data.paths import named
from simulations.report.days import between
from simulations.report.failed import reason
from simulations.report.files import RunError
from simulations.report.folder import RunFolder
from simulations.report.lock import who_has
from simulations.report.people import heading as unseen_heading
from simulations.report.units import human_bytes

NOTHING = "\N{EN DASH}"
Row = dict[str, Any]
_FIGURES = (
    *("macro_f1", "worst_decile", "unseen", "bytes_down", "bytes_up"),
    *("bytes_graphs", "client_updates_per_second", "rounds"),
)
_LISTED = {
    "run": "run",
    "started": "started",
    "strategy": "strategy",
    "dataset": "data set",
    "seed": "seed",
    "macro_f1": "macro-F1",
    "state": "state",
}
_LACKING = (
    (),
    ("seed",),
    ("seed", "dataset"),
    ("seed", "dataset", "state"),
    ("seed", "dataset", "state", "started"),
)


def load_runs(paths: Iterable[Path]) -> list[tuple[str, Summary]]:
    """Read the summaries of finished runs, each beside its folder's name.

    Where two folders have the same name, each run's is the path as given.

    Raises
    ------
    RunError
        Where a folder is not there, is no run's, or its run did not end.
    """
    runs = [(path, RunFolder.open(path).summary()) for path in paths]
    folders = Counter(folder.name for folder in {path.resolve() for path, _ in runs})
    return [
        (str(path) if folders[path.resolve().name] > 1 else path.resolve().name, summary)
        for path, summary in runs
    ]


def compare_rows(runs: Iterable[tuple[str, Summary]]) -> list[Row]:
    """Return one row a method of each run: its own strategy, its baselines, those that failed.

    Of one that failed all figures are None, and ``problem`` says why; of any other it is None.
    """
    rows: list[Row] = []
    for run, summary in runs:
        rows += [_row(run, summary, method) for method in (summary, *summary.baselines)]
        rows += [_failed(run, summary, name) for name in summary.failed]
    return rows


def data_differences(paths: Sequence[Path]) -> list[str]:
    """Say in which keys of ``[data]`` runs differ, a line each; the label fraction is in the rows.

    A run whose configuration cannot be read is left out: its figures can be, and are shown.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        try:
            config = RunFolder.open(path).config()
        except RunError:
            continue
        found[str(path)] = config.data.model_dump(mode="json", exclude={"label_fraction"})
    keys = next(iter(found.values()), {})
    return [
        f"not on the same data: data.{key} is "
        + ", ".join(f"{data[key]!r} in {run}" for run, data in found.items())
        for key in keys
        if len({repr(data[key]) for data in found.values()}) > 1
    ]


def list_rows(folder: Path) -> list[Row]:
    """Return one row a run under ``folder``, oldest first; broken ones say what is wrong.

    Raises
    ------
    RunError
        Where there is no such folder.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "no such folder"
        raise RunError(f"{folder}: {what}; runs are kept in runs/ unless --out said so")
    own = [folder] if (folder / "config.toml").is_file() else []  # a run's own folder was named
    runs = [RunFolder(path) for path in (*own, *(p.parent for p in folder.glob("*/config.toml")))]
    return [_listed(run) for run in sorted(runs, key=lambda run: (run.started, run.path.name))]


def show_comparison(rows: Sequence[Row], console: Console) -> None:
    """Print what ``compare_rows`` returned; on a narrow terminal, each run under its name."""
    table = _comparison(rows)
    if _fits(table, console):
        console.print(table)
    else:
        for of_run in _by_run(rows):
            _show_run(of_run, console)
    for row in rows:
        if row["problem"]:
            _warn(f"{row['run']}: no result of {row['strategy']}: {row['problem']}", console)


def show_list(rows: Sequence[Row], console: Console, folder: Path) -> None:
    """Print what ``list_rows`` returned; what a narrow terminal has no room for, the run tells."""
    if not rows:
        said = f"no runs here{_instead(folder)}"
        console.print(said, markup=False, highlight=False, soft_wrap=True)
        return
    tables = [_list_table(rows, lacking) for lacking in _LACKING]
    console.print(next((table for table in tables if _fits(table, console)), tables[-1]))
    for row in rows:
        if said := _trouble(row):
            _warn(f"{row['run']}: {row['state']}{said}", console)


def _instead(folder: Path) -> str:
    """What to do where there is no run: a sweep keeps its cells' results, and one table."""
    if not (folder / "cells").is_dir():
        return "; flwr-sim run FILE makes one"
    table = folder / "table.md"
    return f": a sweep's folder; its table: {table if table.exists() else 'none yet'}"


def method_table(summary: Summary) -> Table:
    """Return the table at a run's end: each method's figures, the run's own strategy first.

    A baseline that failed has a row of dashes: who looks for it must not think that it never ran.
    """
    unseen = (_broken(unseen_heading(summary)),) if summary.unseen_persons else ()
    figures = ("bytes\ndown", "bytes\nup", "updates\n/s", "left\nout")  # 80 columns hold all
    table = _table("method", "macro-F1", "worst\ntenth", *unseen, *figures)
    for method in (summary, *summary.baselines):
        cells = _cells(method, unseen=bool(summary.unseen_persons))
        table.add_row(*cells, style="bold" if method is summary else "")
    for name in summary.failed:
        table.add_row(Text(name), *[NOTHING] * (len(table.columns) - 1), style="yellow")
    return table


def days_table(summary: Summary) -> Table:
    """Return the table of devices that live through days: each method's figures, by range."""
    table = _table("method", "days", "accuracy", "macro-F1", "asked", "back", "down", "up", left=2)
    for method in (summary, *summary.baselines):
        for part in method.days:
            table.add_row(
                Text(method.strategy),
                between(part.first, part.last),
                _score(part.accuracy),
                _score(part.macro_f1),
                *(_plain(count) for count in (part.asked, part.back)),
                *map(_size, (part.bytes_down, part.bytes_up)),
                style="bold" if method is summary else "",
            )
    return table


def _row(name: str, summary: Summary, method: MethodSummary) -> Row:
    return {
        "run": name,
        "strategy": method.strategy,
        "main": method is summary,
        "macro_f1": method.macro_f1.mean,
        "worst_decile": method.macro_f1.worst_decile,
        "unseen": method.macro_f1.unseen,
        "unseen_group": unseen_heading(summary),
        "bytes_down": method.bytes_per_participation.down,
        "bytes_up": method.bytes_per_participation.up,
        "bytes_graphs": method.bytes_graphs,
        "client_updates_per_second": method.client_updates_per_second,
        "rounds": method.rounds,
        "label_fraction": summary.label_fraction,
        "seed": summary.seed,
        "dataset": summary.dataset,
        "problem": None,
    }


def _failed(run: str, summary: Summary, name: str) -> Row:
    figures = dict.fromkeys(_FIGURES)
    problem = reason(summary, name)
    return {
        **_row(run, summary, summary),
        **figures,
        "strategy": name,
        "main": False,
        "problem": problem,
    }


def _listed(run: RunFolder) -> Row:
    row: Row = {
        "run": run.path.name,
        "path": str(run.path),
        "started": run.started.isoformat(timespec="seconds"),
        **dict.fromkeys(("strategy", "dataset", "seed", "macro_f1")),
        "state": "interrupted",
        "failed": [],
        "problem": None,
    }
    try:
        config = run.config()
        row |= {"strategy": config.strategy, "dataset": named(config.data), "seed": config.seed}
        if run.finished:
            summary = run.summary()
            row |= {"dataset": summary.dataset, "macro_f1": summary.macro_f1.mean}
            row |= {"state": "finished", "failed": summary.failed}
        elif who_has(run.path):
            row["state"] = "running"
    except RunError as error:
        row |= {"state": "broken", "problem": str(error)}
    return row


def _trouble(row: Row) -> str:
    if row["problem"]:
        return f": {row['problem']}"
    return f"; no result of {', '.join(row['failed'])}" if row["failed"] else ""


def _warn(said: str, console: Console) -> None:
    console.print(Text(said, style="yellow"), soft_wrap=True)


def _list_table(rows: Sequence[Row], lacking: Sequence[str]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    columns = {name: heading for name, heading in _LISTED.items() if name not in lacking}
    for name, heading in columns.items():
        justify: Literal["left", "right"] = "right" if name in ("seed", "macro_f1") else "left"
        table.add_column(heading, justify=justify, no_wrap=True)  # a run's name is to be copied
    for row in rows:
        told = row | {"started": row["started"][:16].replace("T", " ")}
        score = _score(row["macro_f1"])
        if "state" in lacking and row["macro_f1"] is None:
            score = Text(row["state"])
        cells = [score if n == "macro_f1" else Text(_plain(told[n])) for n in columns]
        table.add_row(*cells, style="yellow" if _trouble(row) else "")
    return table


def _comparison(rows: Sequence[Row]) -> Table:
    unseen = dict.fromkeys(_broken(row["unseen_group"]) for row in rows)
    table = _table("run", "method", *_scored("\n/ ".join(unseen)), "updates\n/s", left=2)
    table.add_column("labels", justify="right")
    table.add_column("seed", justify="right")
    for row in rows:
        if row["main"]:
            table.add_section()
        run = Text(_plain(row["run"]) if row["main"] else "")
        same = Text(f"{row['label_fraction']:g}"), Text(_plain(row["seed"]))
        rate = _rate(row["client_updates_per_second"])
        table.add_row(run, *_compared(row), rate, *same, style=_style(row))
    return table


def _by_run(rows: Sequence[Row]) -> list[Sequence[Row]]:
    """Each run's rows; its own strategy is the first of them."""
    starts = [n for n, row in enumerate(rows) if row["main"]]
    return [rows[i:j] for i, j in zip(starts, [*starts[1:], len(rows)], strict=True)]


def _show_run(rows: Sequence[Row], console: Console) -> None:
    main = rows[0]
    said = f"{main['run']}, labels {main['label_fraction']:g}, seed {main['seed']}"
    console.print(Text(said, style="bold"), soft_wrap=True)
    table = _table("method", *_scored(_broken(main["unseen_group"])))
    for row in rows:
        table.add_row(*_compared(row), style=_style(row))
    console.print(table)


def _style(row: Row) -> str:
    return "yellow" if row["problem"] else "bold" if row["main"] else ""


def _scored(unseen: str) -> tuple[str, ...]:
    return ("macro-F1", "worst\ntenth", unseen, "bytes\ndown", "bytes\nup")


def _compared(row: Row) -> list[Text]:
    return [
        Text(_plain(row["strategy"])),
        *map(_score, (row["macro_f1"], row["worst_decile"], row["unseen"])),
        *map(_size, (row["bytes_down"], row["bytes_up"])),
    ]


def _cells(method: MethodSummary, *, unseen: bool) -> list[Text]:
    scores = [method.macro_f1.mean, method.macro_f1.worst_decile]
    cells = [Text(method.strategy), *map(_score, scores)]
    if unseen:
        cells.append(_score(method.macro_f1.unseen))
    moved = method.bytes_per_participation
    left_out = sum(len(reasons) for reasons in method.failures.values())
    return [
        *cells,
        Text(human_bytes(moved.down)),
        Text(human_bytes(moved.up)),
        _rate(method.client_updates_per_second),
        Text(str(left_out), style="yellow" if left_out else ""),
    ]


def _table(*columns: str, left: int = 1) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for n, name in enumerate(columns):
        table.add_column(name, justify="left" if n < left else "right", overflow="fold")
    return table


def _fits(table: Table, console: Console) -> bool:
    """Whether a terminal is wide enough for a table with no cell folded."""
    unbound = console.options.update(max_width=10_000)
    return console.measure(table, options=unbound).maximum <= console.width


def _broken(text: str) -> str:
    """A heading on two lines."""
    return text.replace(" ", "\n", 1)


def _plain(value: str | float | None) -> str:
    return NOTHING if value is None else str(value)


def _score(value: float | None) -> Text:
    return Text(NOTHING if value is None else f"{value:.3f}")


def _rate(value: float | None) -> Text:
    """Updates a second; of none there is no speed."""
    return Text(f"{value:.3g}" if value else NOTHING)


def _size(value: float | None) -> Text:
    return Text(NOTHING if value is None else human_bytes(value))
