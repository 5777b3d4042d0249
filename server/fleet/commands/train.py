"""``flwr-fleet train``: a strategy's rounds on the fleet's devices."""

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from server.fleet.commands.options import (
    DryRun,
    Fleet,
    FleetOption,
    Format,
    Formats,
    actor,
    answer,
    columns,
    say,
)
from server.fleet.errors import FoundError

if TYPE_CHECKING:
    from server.fleet.training.devices import Choice

_HEAD: Final = ("device", "takes_part", "why")


def train(
    file: Annotated[Path, typer.Argument(help="A training file; the README has one.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a key; repeatable."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The run's folder; left out: runs/NAME.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the interrupted run in that folder.")
    ] = False,
    dry_run: DryRun = False,
    fleet: FleetOption = None,
    format_: Formats = Format.table,
) -> None:
    """Train a strategy on the fleet, round by round, beside serve; Ctrl-C ends it cleanly.

    Updates are judged by device, and who fails again and again is quarantined. --dry-run says which
    devices would take part, and what would be refused. A run keeps to the devices that it began
    with: who is enrolled or tagged later takes part in the next. --resume takes another
    cohort.timeout_seconds, min_replies and give_up_after; all else has to be as it was.

    Example: flwr-fleet train spring.toml --set rounds=50
    """
    from server.fleet.training.devices import too_few
    from server.fleet.training.file import load
    from server.fleet.training.folder import TrainingFolder
    from server.fleet.training.progress import Progress
    from server.fleet.training.run import Place, chosen, plan
    from server.fleet.training.run import train as run

    loaded, opened = load(file, set_ or ()), Fleet(fleet)
    runs = TrainingFolder(out or Path("runs") / loaded.training.name)
    with opened.registry() as registry:
        place = Place(opened.folder, opened.config, registry, actor())
        progress = Progress(loaded.training.rounds, say)
        if dry_run:
            choice = chosen(registry, loaded, runs.begun() if resume else None)
            rows = _rows(choice)
            answer(rows, format_, lambda: columns(_HEAD, ([r[k] for k in _HEAD] for r in rows)))
            least = loaded.training.devices.least
            if len(choice.nodes) < least:
                said = f"{len(choice.nodes)} would take part; {least} needed (devices.least)"
                raise FoundError(said)
            if few := too_few(choice, loaded.training):
                raise FoundError(few)
            plan(place, loaded, runs, progress, resume=resume, dry_run=True)
            return
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, progress.interrupt)
        found = plan(place, loaded, runs, progress, resume=resume)
        if found.choice.left_out:
            say(f"left out: {_counts(found.choice.counts)}")
        summary = run(place, found, progress)
    answer(summary, format_, lambda: _table(summary, runs.path))


def _rows(choice: "Choice") -> list[dict[str, str]]:
    rows = [{"device": name, "takes_part": "yes", "why": "accepted"} for name in choice.nodes]
    rows += [{"device": n, "takes_part": "no", "why": why} for n, why in choice.left_out.items()]
    return sorted(rows, key=lambda row: row["device"])


def _table(summary: dict[str, Any], path: Path) -> str:
    head = ("device", "macro_f1", "refused", "late")
    rows = [
        (name, _score(one["macro_f1"]), one["refused"], one["late"])
        for name, one in summary["by_device"].items()
    ]
    counts = {key: summary[key] for key in ("asked", "answered", "refused", "late")}
    said = "  ".join(f"{key} {count}" for key, count in counts.items())
    left = _counts(summary["left_out"]) or "nobody"
    return (
        f"{columns(head, rows)}\n{summary['rounds']} rounds with {summary['devices']} devices in "
        f"{summary['seconds']:g} s: {said}\nleft out: {left}\nin {path}"
    )


def _score(score: float | None) -> str:
    return "-" if score is None else f"{score:.3f}"


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {why}" for why, count in counts.items())
