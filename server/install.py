"""Bring graphs to the devices: each machine gets each graph once."""

from collections.abc import Iterable

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid


class InstallError(RuntimeError):
    """Graphs could not be brought to some devices."""


def install(
    grid: Grid, graphs: dict[str, bytes], timeout: float, nodes: Iterable[int] | None = None
) -> None:
    """Ask every node, or these, what it lacks, and send it; nodes of one machine share what came.

    One is sent to first. As long as that helps nobody else, each is a machine of its own, and twice
    as many are sent to at once. A node that does not take what it is sent is passed over: it is
    left out of its first round, with the reason, like any other that fails.

    Raises
    ------
    InstallError
        Where no node took its graphs.
    """
    nodes = asked = sorted(grid.get_node_ids() if nodes is None else nodes)
    said: dict[int, str] = {}
    count, wanted = 1, dict[int, dict[str, bytes]]()
    while lacking := _lacking(grid, asked, sorted(graphs), timeout):
        helped = set(asked) - set(lacking)
        if wanted and helped:
            count = 2 * count if helped <= set(wanted) else 1
        batch = [node for node in lacking if node not in said][:count]
        if not batch:
            break
        wanted = {node: {d: graphs[d] for d in lacking[node]} for node in batch}
        said |= _send(grid, wanted, timeout)
        asked = sorted(lacking)
    if nodes and set(lacking) == set(nodes):
        first = nodes[0]
        raise InstallError(f"no device took the graphs sent to it; node {first}: {said[first]}")


def _send(grid: Grid, wanted: dict[int, dict[str, bytes]], timeout: float) -> dict[int, str]:
    """Send graphs to nodes; what came of it, in words."""
    messages = [
        Message(
            RecordDict({"graphs": ConfigRecord(dict(graphs))}),
            dst_node_id=node,
            message_type=f"{MessageType.QUERY}.install",
        )
        for node, graphs in wanted.items()
    ]
    said = dict.fromkeys(wanted, f"no reply within {timeout:g} s")
    for reply in grid.send_and_receive(messages, timeout=timeout):
        said[reply.metadata.src_node_id] = (
            reply.error.reason or f"error {reply.error.code}"
            if reply.has_error()
            else "it says that it has them, and lacks them still"
        )
    return said


def _lacking(
    grid: Grid, nodes: list[int], digests: list[str], timeout: float
) -> dict[int, list[str]]:
    requests = [
        Message(
            RecordDict({"graphs": ConfigRecord({"digests": digests})}),
            dst_node_id=node,
            message_type=f"{MessageType.QUERY}.graphs",
        )
        for node in nodes
    ]
    lacking = {}
    for reply in grid.send_and_receive(requests, timeout=timeout):
        if reply.has_error():
            continue  # left out of its first round, with the reason, like any other fault
        missing = reply.content.config_records.get("graphs", ConfigRecord()).get("missing")
        wanted = (
            {str(one) for one in missing} & set(digests) if isinstance(missing, list) else set()
        )
        if wanted:
            lacking[reply.metadata.src_node_id] = sorted(wanted)
    return lacking
