"""Runs side by side: rows for ``--format json``, tables for the terminal."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from schemas.summary import MethodSummary, Summary
from simulations.report.days import between
from simulations.report.failed import reason
from simulations.report.files import RunError
from simulations.report.folder import RunFolder
from simulations.report.people import heading
from simulations.report.units import human_bytes

NOTHING = "\N{EN DASH}"
Row = dict[str, Any]
_FIGURES = (
    *("macro_f1", "worst_decile", "unseen", "bytes_down", "bytes_up"),
    *("client_updates_per_second", "rounds"),
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
    """Print what ``compare_rows`` returned."""
    table = _table(
        "run", "method", "F1", "worst\ntenth", "unseen", "down", "up", "updates\n/s", left=2
    )
    table.add_column("labels", justify="right")
    table.add_column("seed", justify="right")
    for row in rows:
        if row["main"]:
            table.add_section()
        style = "yellow" if row["problem"] else "bold" if row["main"] else ""
        table.add_row(*_compared(row), style=style)
    console.print(table)
    for row in rows:
        if row["problem"]:
            said = f"{row['run']}: no result of {row['strategy']}: {row['problem']}"
            console.print(Text(said, style="yellow"), soft_wrap=True)


def show_list(rows: Sequence[Row], console: Console) -> None:
    """Print what ``list_rows`` returned."""
    if not rows:
        console.print("no runs here; flwr-sim run FILE makes one")
        return
    table = _table("run", "started", "strategy", "data set", left=4)
    table.columns[0].no_wrap = True  # to be copied
    for name in ("seed", "F1"):
        table.add_column(name, justify="right")
    table.add_column("state")
    for row in rows:
        text = [Text(_plain(row[key])) for key in ("run", "started", "strategy", "dataset", "seed")]
        table.add_row(*text, _score(row["macro_f1"]), Text(_state(row)))
    console.print(table)


def method_table(summary: Summary) -> Table:
    """Return the table at a run's end: each method's figures, the run's own strategy first.

    A baseline that failed has a row of dashes: who looks for it must not think that it never ran.
    """
    unseen = (_broken(heading(summary)),) if summary.unseen_persons else ()
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
        "bytes_down": method.bytes_per_participation.down,
        "bytes_up": method.bytes_per_participation.up,
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
        row |= {"strategy": config.strategy, "dataset": config.data.kind, "seed": config.seed}
        if run.finished:
            summary = run.summary()
            row |= {"dataset": summary.dataset, "macro_f1": summary.macro_f1.mean}
            row |= {"state": "finished", "failed": summary.failed}
    except RunError as error:
        row |= {"state": "broken", "problem": str(error)}
    return row


def _state(row: Row) -> str:
    failed = f"; no result of {', '.join(row['failed'])}" if row["failed"] else ""
    return _plain(row["problem"] or row["state"]) + failed


def _compared(row: Row) -> list[Text]:
    return [
        Text(_plain(row["run"]) if row["main"] else ""),
        Text(_plain(row["strategy"])),
        _score(row["macro_f1"]),
        _score(row["worst_decile"]),
        _score(row["unseen"]),
        _size(row["bytes_down"]),
        _size(row["bytes_up"]),
        _rate(row["client_updates_per_second"]),
        Text(f"{row['label_fraction']:g}"),
        Text(_plain(row["seed"])),
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
