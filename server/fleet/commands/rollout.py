"""``flwr-fleet rollout``: bundles to devices, group after group."""

import shutil
import sys
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from schemas.base import ConfigError
from server.fleet.commands.bundle import complete as complete_bundle
from server.fleet.commands.options import (
    DryRun,
    Fleet,
    FleetOption,
    Format,
    Formats,
    Yes,
    actor,
    answer,
    check_ranges,
    columns,
    confirm,
    listened,
    say,
    width,
)
from server.fleet.errors import FoundError

if TYPE_CHECKING:
    from server.fleet.registry import Registry

app = typer.Typer(
    help="Roll-outs: a bundle to devices, group after group; `serve` does what is decided here."
)
_HEAD: Final = ("roll-out", "state", "bundle", "devices", "succeeded", "failed", "created")
_WIDTH: Final = 24  # characters of a group's bar
_NAME: Final = 32  # columns of a group's name, so that a row has 120
_MARKS: Final = {"succeeded": "█", "failed": "x", "testing": "▒", "offered": "░"}
_DAY: Final = 86_400.0


def complete(incomplete: str) -> list[str]:
    """Roll-outs that begin so, for the shell."""
    try:
        from server.fleet.rollouts import summaries

        with Fleet(None).registry() as registry, registry.read() as db:
            ids = [row["id"] for row in summaries(db)]
    except Exception:  # noqa: BLE001 - a shell's completion has nobody to tell
        return []
    return [each for each in ids if each.startswith(incomplete)]


RolloutId = Annotated[
    str, typer.Argument(help="As rollout list shows it.", autocompletion=complete)
]


@app.command()
def create(
    bundle: Annotated[
        str,
        typer.Option(
            help="NAME (the newest), NAME@VERSION, or a hash's beginning.",
            autocompletion=complete_bundle,
        ),
    ],
    group: Annotated[
        list[str],
        typer.Option(
            help="tag=TAG, devices=NAME,NAME, file=PATH, a share of the fleet (10%), a number, or "
            "rest; repeatable, in their order. A device is of the first that takes it."
        ),
    ],
    success: Annotated[
        float, typer.Option(help="Share of a group, to go on with the next: 0 to 1.")
    ] = 0.95,
    errors: Annotated[
        float, typer.Option(help="Share of a group that may fail, 0 to 1; above, it stops.")
    ] = 0.05,
    days: Annotated[
        float, typer.Option(help="Who is not online for so long is left out: 0.001 to 365.")
    ] = 14.0,
    at_once: Annotated[
        int, typer.Option(help="Devices that install, or are on probation, at a time: 1 to 10000.")
    ] = 200,
    predictions: Annotated[
        int, typer.Option(help="Of a device's probation, 0 to 1000000, or …")
    ] = 100,
    minutes: Annotated[
        float, typer.Option(help="… its minutes, 0 to 43200, whichever is first.")
    ] = 10.0,
    latency_ms: Annotated[
        float | None,
        typer.Option(
            help="Most that a window may take, 0.001 to 3600000; left out: as long as it lasts."
        ),
    ] = None,
    personal: Annotated[
        bool,
        typer.Option("--personal", help="Each device its own: the newest of this name for it."),
    ] = False,
    downgrade: Annotated[
        bool, typer.Option("--downgrade", help="Also where a newer bundle is installed.")
    ] = False,
    other_backbone: Annotated[
        bool, typer.Option("--other-backbone", help="Also where another backbone is installed.")
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    fleet: FleetOption = None,
    format_: Formats = Format.table,
) -> None:
    """Roll a bundle out; the first group gets it at once.

    Each device proves the bundle on its own windows before it predicts with it, keeps the last good
    one, and goes back by itself where the new one fails on probation. The next group begins when
    enough of the last have succeeded; too many errors stop the roll-out. Who is in which group is
    decided now: who is enrolled or tagged later needs a roll-out of its own.

    Example: flwr-fleet rollout create --bundle walk --group tag=beta --group 10% --group rest
    --success 0.9 --errors 0.05
    """
    check_ranges(
        "rollout create",
        ("--success", success, 0, 1),
        ("--errors", errors, 0, 1),
        ("--days", days, 0.001, 365),
        ("--at-once", at_once, 1, 10_000),
        ("--predictions", predictions, 0, 1_000_000),
        ("--minutes", minutes, 0, 43_200),
        ("--latency-ms", latency_ms, 0.001, 3_600_000),
    )
    from server.fleet import rollouts

    terms = rollouts.Terms(
        success=success,
        error=errors,
        deadline=days * _DAY,
        at_once=at_once,
        personal=personal,
        downgrade=downgrade,
        other_backbone=other_backbone,
        latency_us=None if latency_ms is None else 1000 * latency_ms,
        predictions=predictions,
        seconds=60 * minutes,
    )
    specs = [rollouts.GroupSpec.parse(text) for text in group]
    with Fleet(fleet).registry() as registry:
        if not personal:
            _tell_whose(registry, bundle)
        _, members = rollouts.create(registry, actor(), bundle, specs, terms, dry_run=True)
        for text, names in members.items():
            say(f"group {text}: {len(names)} devices, {', '.join(names[:5])}{_more(names)}")
        names = [name for group_ in members.values() for name in group_]
        if not confirm(f"roll {bundle} out", names, yes=yes, dry_run=dry_run):
            return
        number, members = rollouts.create(registry, actor(), bundle, specs, terms)
    groups = {text: len(names) for text, names in members.items()}
    answer({"id": number, "groups": groups}, format_, lambda: number)
    if format_ is Format.table:
        say(f"next: flwr-fleet rollout show {number} --watch")


@app.command("list")
def list_rollouts(fleet: FleetOption = None, format_: Formats = Format.table) -> None:
    """List roll-outs, the newest first.

    Example: flwr-fleet rollout list
    """
    from server.fleet.rollouts import summaries

    with Fleet(fleet).registry() as registry, registry.read() as db:
        rows = summaries(db)
    none = "none; flwr-fleet rollout create --bundle NAME --group rest"
    answer(rows, format_, lambda: columns(_HEAD, map(_cells, rows), none))


@app.command()
def show(
    rollout: RolloutId,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again as it changes, until it is over.")
    ] = False,
    devices: Annotated[
        str | None, typer.Option(metavar="STATE", help="Also name the devices in this state.")
    ] = None,
    fleet: FleetOption = None,
    format_: Formats = Format.table,
) -> None:
    """Show how a roll-out stands: a bar a group, failures with their reasons.

    Exit code 5 where it stopped by itself.

    Example: flwr-fleet rollout show 1f2e3d4c --devices failed
    """
    from server.fleet.alone import serving
    from server.fleet.heard import cut_off, fields
    from server.fleet.rollouts import status
    from server.fleet.rollouts.status import STATES, devices_of

    if devices is not None and devices not in STATES:
        problem = f"{devices!r}: no such state; there are {', '.join(STATES)}"
        raise ConfigError("--devices", [problem])
    last = ""
    it = Fleet(fleet)
    with it.registry() as registry:
        while True:
            with registry.read() as db:
                found = status(db, rollout)
                said = found.as_json() | {"served_by": serving(registry.engine)}
                said |= fields(cut_off(registry.engine, it.folder))
                if devices is not None:
                    said["devices"] = devices_of(db, rollout, [devices])
            text = _text(said, over=found.done)
            shown = _over(last) + text
            if text != last and not answer(said, format_, lambda shown=shown: shown):  # type: ignore[misc]
                break
            last = text
            if not watch or found.done or not listened(1.0):
                break
    if said["state"] == "failed":
        raise FoundError(f"roll-out {rollout} stopped: {said['reason']}")


@app.command()
def pause(rollout: RolloutId, fleet: FleetOption = None) -> None:
    """Offer it to no further device; devices that have begun go on.

    Example: flwr-fleet rollout pause 1f2e3d4c
    """
    from server.fleet.rollouts import pause as do

    with Fleet(fleet).registry() as registry:
        changed = do(registry, actor(), rollout)
    say("paused" if changed else "was paused already")


@app.command()
def resume(rollout: RolloutId, fleet: FleetOption = None) -> None:
    """Go on with a roll-out that was paused.

    Example: flwr-fleet rollout resume 1f2e3d4c
    """
    from server.fleet.rollouts import resume as do

    with Fleet(fleet).registry() as registry:
        changed = do(registry, actor(), rollout)
    say("goes on" if changed else "was not paused")


@app.command()
def abort(
    rollout: RolloutId,
    roll_back: Annotated[
        bool,
        typer.Option("--roll-back", help="Devices that have it go back; may be said later too."),
    ] = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    fleet: FleetOption = None,
) -> None:
    """End a roll-out: who has not finished keeps, or goes back to, what it had.

    Devices that wait get nothing, those that install or are on probation are recalled, and those
    that have it keep it, unless --roll-back: then each goes back to the bundle it had before.

    Example: flwr-fleet rollout abort 1f2e3d4c --roll-back --dry-run
    """
    from server.fleet.rollouts import abort as do
    from server.fleet.rollouts import status
    from server.fleet.rollouts.status import devices_of

    with Fleet(fleet).registry() as registry:
        with registry.read() as db:
            state = status(db, rollout).rollout.state
            recalled = devices_of(db, rollout, ("offered", "testing"))
            waiting = devices_of(db, rollout, ("waiting",))
            having = devices_of(db, rollout, ("succeeded",)) if roll_back else []
        say(f"{len(waiting)} devices that wait get nothing; {len(recalled)} are recalled")
        what = f"abort roll-out {rollout} ({state})"
        what += f"; roll back, of {len(having)}" if roll_back else ""
        if not confirm(what, [*recalled, *waiting, *having], yes=yes, dry_run=dry_run):
            return
        changed = do(registry, actor(), rollout, roll_back=roll_back)
    say("aborted" if changed else f"nothing to do: it is {state}")


def _tell_whose(registry: "Registry", bundle: str) -> None:
    """Say that a bundle is one device's own: whoever forgot --personal reaches nobody else."""
    from server.fleet.rollouts.plan import bundle_of

    with registry.read() as db:
        row = bundle_of(db, bundle)
    if row.device is not None:
        whose = f"{row.name}@{row.version} is {row.device}'s own, and goes to it alone"
        say(f"{whose}; --personal gives each device its own")


def _cells(row: dict[str, Any]) -> tuple[Any, ...]:
    keys = ("id", "state", "name", "devices", "succeeded", "failed", "created")
    return tuple(row[key] for key in keys)


def _text(said: dict[str, Any], *, over: bool) -> str:
    lines = [
        f"roll-out {said['id']} of {said['name']}: {said['state']}",
        f"created {said['created']}; goes on at {100 * said['success']:g} % success, stops "
        f"above {100 * said['error']:g} % errors",
    ]
    if said["reason"]:
        lines.append(f"reason   {said['reason']}")
    rows = [
        (_named(each["name"]), _bar(each), each["state"], _counts(each)) for each in said["groups"]
    ]
    lines += ["", columns(("group", "progress", "state", "devices"), rows)]
    for each in said["failures"]:
        lines.append(f"{each['devices']} x {each['reason']} (as {each['for_example']})")
    if said["served_by"] is None and not over:
        lines.append("nothing happens: nobody runs flwr-fleet serve on this fleet")
    elif said["unheard"] is not None and not over:
        lines.append(f"nothing happens: {said['unheard']}, since {said['unheard_since']}")
    else:
        lines += [f"waits for {_that(each)} (as {each['for_example']})" for each in said["waits"]]
    if said.get("devices"):
        lines += ["", *said["devices"]]
    return "\n".join(lines)


def _that(waits: dict[str, Any]) -> str:
    return f"{waits['devices']} that {'is' if waits['devices'] == 1 else 'are'} {waits['why']}"


def _bar(group: dict[str, Any]) -> str:
    total = max(1, group["devices"])
    bar = "".join(
        mark * round(_WIDTH * group.get(state, 0) / total) for state, mark in _MARKS.items()
    )
    return bar[:_WIDTH].ljust(_WIDTH, "·")


def _counts(group: dict[str, Any]) -> str:
    told = [f"{value} {key}" for key, value in group.items() if isinstance(value, int) and value]
    return ", ".join(sorted(told, key=lambda text: not text.endswith("devices")))


def _over(last: str) -> str:
    """What has the next text overwrite the last one, on a terminal: as many lines as it took."""
    if not last or not sys.stdout.isatty():
        return ""
    across = shutil.get_terminal_size().columns
    lines = sum(max(1, -(-width(line) // across)) for line in last.split("\n"))
    return f"\033[{lines}A\033[J"


def _named(name: str) -> str:
    """A group's name; of a long one the beginning and the end."""
    if len(name) <= _NAME:
        return name
    return f"{name[: _NAME // 2 - 1]}…{name[-_NAME // 2 :]}"


def _more(names: list[str]) -> str:
    return ", …" if len(names) > 5 else ""
