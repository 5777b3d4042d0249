"""``flwr-fleet device ping``: a task through its whole life, over the broker and back."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from server.fleet.commands.changes import chosen
from server.fleet.commands.device import TagOption
from server.fleet.commands.options import Fleet, FleetOption, Format, Formats, answer, columns
from server.fleet.errors import FoundError, NotFoundError

if TYPE_CHECKING:
    from flwr.app import Message

    from server.fleet.grid import FleetGrid

_SETTLE: Final = 2.0  # seconds in which those who are online have said so
_SEEK: Final = 0.5  # seconds between looks for those who were off
_LOOK: Final = 0.005  # seconds between looks at what came
_HEAD: Final = ("device", "seconds", "answer")


def ping(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of devices; none: all that are online.")
    ] = None,
    tag: TagOption = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for them.")] = 10.0,
    fleet: FleetOption = None,
    format_: Formats = Format.table,
) -> None:
    """Ask devices a small question over the broker: signed, done, answered, taken in.

    Exit code 5 where one does not answer. Not while another process trains on the fleet.

    Example: flwr-fleet device ping --tag pilot
    """
    from server.fleet.grid import open_grid
    from server.fleet.listing import standings

    opened = Fleet(fleet)
    with opened.registry() as registry:
        them = chosen(registry, names, tag, ("accepted",)) if names or tag is not None else ()
        with registry.read() as db:
            states = {device.id: device.state for device in standings(db, them)}
    with open_grid(opened.folder.root, run_name="ping", interval=0.1, log=lambda _: None) as grid:
        rows = _asked(grid, states, timeout)
    answer(rows, format_, lambda: columns(_HEAD, map(_cells, rows), "no devices"))
    if silent := [row["device"] for row in rows if row["seconds"] is None]:
        raise FoundError(f"{len(silent)} of {len(rows)} did not answer")


def _asked(grid: "FleetGrid", states: Mapping[str, str], timeout: float) -> list[dict[str, Any]]:
    """Ask each as soon as it is there: who is off takes no time from the others."""
    end, absent = time.monotonic() + timeout, set(states)
    rows = {name: {"device": name, "seconds": None, "answer": "offline"} for name in states}
    waiting: dict[str, tuple[str, float]] = {}
    nodes = grid.find(absent, min(timeout, _SETTLE))
    while nodes or ((waiting or absent) and time.monotonic() < end):
        began = time.monotonic()
        ids = grid.push_messages(map(_question, nodes.values()))
        waiting |= {id_: (name, began) for id_, name in zip(ids, nodes, strict=True)}
        absent -= nodes.keys()
        _take(grid, waiting, rows, min(end, began + _SEEK) if absent else end)
        left = max(0.0, end - time.monotonic())
        nodes = grid.find(absent, 0 if waiting else min(left, _SEEK)) if absent and left else {}
    grid.withdraw(waiting)
    for name, _ in waiting.values():
        rows[name] = {"device": name, "seconds": None, "answer": f"none within {timeout:g} s"}
    if all(row["answer"] == "offline" for row in rows.values()):
        for name, state in states.items():
            if state != "accepted":
                raise NotFoundError(f"{name} is {state}; no such device is online")
        raise NotFoundError("no such device is online; is its daemon running, and the broker up?")
    return [rows[name] for name in sorted(rows)]


def _take(
    grid: "FleetGrid",
    waiting: dict[str, tuple[str, float]],
    rows: dict[str, dict[str, Any]],
    until: float,
) -> None:
    """Take answers until all are here, or a moment is."""
    while waiting and time.monotonic() < until:
        for reply in grid.pull_messages(waiting):
            name, began = waiting.pop(reply.metadata.reply_to_message_id)
            took = None if reply.has_error() else time.monotonic() - began
            said = reply.error.reason if reply.has_error() else "good"
            rows[name] = {"device": name, "seconds": took, "answer": said}
        time.sleep(_LOOK)


def _question(node: int) -> "Message":
    """Which of no graphs it lacks."""
    from flwr.app import ConfigRecord, Message, RecordDict

    asked = RecordDict({"graphs": ConfigRecord({"digests": []})})
    return Message(asked, dst_node_id=node, message_type="query.graphs", ttl=3600)


def _cells(row: dict[str, Any]) -> list[str]:
    took = "-" if row["seconds"] is None else f"{row['seconds']:.3f}"
    return [row["device"], took, row["answer"]]
