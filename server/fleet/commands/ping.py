"""``flwr-fleet device ping``: a task through its whole life, over the broker and back."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from server.fleet.commands.options import Fleet, FleetOption, Format, Formats, answer, columns
from server.fleet.errors import FoundError, NotFoundError

if TYPE_CHECKING:
    from flwr.app import Message

    from server.fleet.grid import FleetGrid

_SETTLE: Final = 2.0  # seconds in which those who are online have said so
_LOOK: Final = 0.005  # seconds between looks at what came
_HEAD: Final = ("device", "seconds", "answer")


def ping(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names of devices; none: all that are online.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for them.")] = 10.0,
    fleet: FleetOption = None,
    format_: Formats = Format.table,
) -> None:
    """Ask devices a small question over the broker: signed, done, answered, taken in.

    Exit code 5 where one does not answer. Not while another process trains on the fleet.

    Example: flwr-fleet device ping watch-7
    """
    from server.fleet.grid import open_grid
    from server.fleet.listing import find

    opened = Fleet(fleet)
    with opened.registry() as registry, registry.read() as db:
        states = {device.id: device.state for device in find(db, names or ())}
    with open_grid(opened.folder.root, run_name="ping", interval=0.1, log=lambda _: None) as grid:
        rows = _asked(grid, states, timeout)
    answer(rows, format_, lambda: columns(_HEAD, map(_cells, rows), "no devices"))
    if silent := [row["device"] for row in rows if row["seconds"] is None]:
        raise FoundError(f"{len(silent)} of {len(rows)} did not answer")


def _asked(grid: "FleetGrid", states: Mapping[str, str], timeout: float) -> list[dict[str, Any]]:
    end, names = time.monotonic() + timeout, list(states)
    nodes = grid.find(names, timeout if names else min(timeout, _SETTLE))
    if not nodes:
        for name, state in states.items():
            if state != "accepted":
                raise NotFoundError(f"{name} is {state}; no such device is online")
        raise NotFoundError("no such device is online; is its daemon running, and the broker up?")
    rows: dict[str, dict[str, Any]] = {
        name: {"device": name, "seconds": None, "answer": "offline"} for name in names
    }
    began = time.monotonic()
    waiting = dict(zip(grid.push_messages(map(_question, nodes.values())), nodes, strict=True))
    while waiting and time.monotonic() < end:
        for reply in grid.pull_messages(waiting):
            name = waiting.pop(reply.metadata.reply_to_message_id)
            took = None if reply.has_error() else time.monotonic() - began
            said = reply.error.reason if reply.has_error() else "good"
            rows[name] = {"device": name, "seconds": took, "answer": said}
        time.sleep(_LOOK)
    grid.withdraw(waiting)
    for name in waiting.values():
        rows[name] = {"device": name, "seconds": None, "answer": f"none within {timeout:g} s"}
    return [rows[name] for name in sorted(rows)]


def _question(node: int) -> "Message":
    """Which of no graphs it lacks."""
    from flwr.app import ConfigRecord, Message, RecordDict

    asked = RecordDict({"graphs": ConfigRecord({"digests": []})})
    return Message(asked, dst_node_id=node, message_type="query.graphs", ttl=3600)


def _cells(row: dict[str, Any]) -> list[str]:
    took = "-" if row["seconds"] is None else f"{row['seconds']:.3f}"
    return [row["device"], took, row["answer"]]
