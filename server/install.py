"""Bring graphs to the devices: each machine gets each graph once."""

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid


class InstallError(RuntimeError):
    """Graphs could not be brought to some devices."""


def install(grid: Grid, graphs: dict[str, bytes], timeout: float) -> None:
    """Ask every node what it lacks, and send it; nodes of one machine share what came.

    A node that does not take what it is sent is passed over: it is left out of its first round,
    with the reason, like any other that fails.

    Raises
    ------
    InstallError
        Where no node took its graphs.
    """
    nodes = asked = sorted(grid.get_node_ids())
    said: dict[int, str] = {}
    while lacking := _lacking(grid, asked, sorted(graphs), timeout):
        node = next((node for node in lacking if node not in said), None)
        if node is None:
            break
        said[node] = _send(grid, node, {d: graphs[d] for d in lacking[node]}, timeout)
        asked = sorted(lacking)
    if nodes and set(lacking) == set(nodes):
        first = nodes[0]
        raise InstallError(f"no device took the graphs sent to it; node {first}: {said[first]}")


def _send(grid: Grid, node: int, graphs: dict[str, bytes], timeout: float) -> str:
    """Send graphs to a node; what came of it, in words."""
    message = Message(
        RecordDict({"graphs": ConfigRecord(dict(graphs))}),
        dst_node_id=node,
        message_type=f"{MessageType.QUERY}.install",
    )
    replies = list(grid.send_and_receive([message], timeout=timeout))
    if not replies:
        return f"no reply within {timeout:g} s"
    if replies[0].has_error():
        return replies[0].error.reason or f"error {replies[0].error.code}"
    return "it says that it has them, and lacks them still"


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
