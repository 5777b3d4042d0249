"""The one place that touches Flower's insides, and why it must.

Flower's public API lets an app write messages, but not carry them. A carrier has to tell
``Message`` who this process is (it reads ``TaskIdentity``), to number messages (their id has no
setter), to rebuild a message in another process with its metadata unchanged, and to hand out a
``Run``. Records are also filled past their checks, which take longer than all else that a carrier
does with a message; what is filled in was checked by the sender. All of this has moved between
releases: `tests/server/test_flower_private.py` holds it against the installed one.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    Metadata,
    MetricRecord,
    RecordDict,
)
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = [
    "CLIENT_CRASHED",
    "CLIENT_RAISED",
    "NO_REPLY",
    "SERVER_NODE_ID",
    "Run",
    "assign_id",
    "empty_run",
    "fill",
    "identify",
    "make_array",
    "metadata_fields",
    "rebuild",
]

_Record = TypeVar("_Record", ArrayRecord, ConfigRecord, MetricRecord, RecordDict)

CLIENT_RAISED = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
CLIENT_CRASHED = ErrorCode.CLIENT_APP_CRASHED
NO_REPLY = ErrorCode.REPLY_MESSAGE_UNAVAILABLE
SERVER_NODE_ID = SUPERLINK_NODE_ID

_FIELDS = (
    "run_id",
    "message_id",
    "src_node_id",
    "dst_node_id",
    "reply_to_message_id",
    "group_id",
    "created_at",
    "ttl",
    "message_type",
    "src_task_id",
    "dst_task_id",
)


def identify(run_id: int, node_id: int, task_id: int = 1) -> None:
    """Say which run and node the messages made in this process come from."""
    TaskIdentity.run_id = run_id
    TaskIdentity.node_id = node_id
    TaskIdentity.task_id = task_id


def assign_id(message: Message, message_id: str) -> None:
    """Give a message its number, as Flower's own grids do on the way out."""
    message.metadata.__dict__["_message_id"] = message_id


def metadata_fields(message: Message) -> list[Any]:
    """Return a message's metadata as plain values, for `rebuild`."""
    values = message.metadata.__dict__
    return [values["_" + name] for name in _FIELDS]


def rebuild(fields: list[Any], body: RecordDict | Error) -> Message:
    """Make the message whose metadata `metadata_fields` took down.

    Parameters
    ----------
    fields
        What `metadata_fields` returned in the sending process.
    body
        The message's content, or the error that it carries instead.
    """
    metadata = Metadata(**dict(zip(_FIELDS, fields, strict=True)))
    return Message(body, metadata=metadata)  # type: ignore[call-overload, no-any-return]


def make_array(dtype: str, shape: tuple[int, ...], stype: str, data: bytes) -> Array:
    """Make an array of fields that came from one."""
    array = Array.__new__(Array)
    array.__dict__.update(dtype=dtype, shape=shape, stype=stype, data=data)
    return array


def fill(record: _Record, items: Mapping[str, Any]) -> _Record:
    """Put items that came from such a record into a new one."""
    record.__dict__["_data"].update(items)
    return record


def empty_run(run_id: int) -> Run:
    """Return a run of which nothing but the id is known."""
    return Run.create_empty(run_id)
