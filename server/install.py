"""Bring graphs to the devices: each machine gets each graph once."""

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid


class InstallError(RuntimeError):
    """Graphs could not be brought to some devices."""


def install(grid: Grid, graphs: dict[str, bytes], timeout: float) -> None:
    """Ask every node what it lacks, and send it; nodes of one machine share what came.

    Raises
    ------
    InstallError
        Where nodes still lack graphs after as many attempts as there are nodes.
    """
    nodes = sorted(grid.get_node_ids())
    for _ in range(len(nodes) + 1):
        lacking = _lacking(grid, nodes, sorted(graphs), timeout)
        if not lacking:
            return
        node, digests = next(iter(lacking.items()))
        record = ConfigRecord({digest: graphs[digest] for digest in digests})
        message = Message(
            RecordDict({"graphs": record}), dst_node_id=node, message_type="query.install"
        )
        list(grid.send_and_receive([message], timeout=timeout))
        nodes = sorted(lacking)
    raise InstallError(f"nodes {nodes} did not take the graphs sent to them")


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
        missing = reply.content.config_records["graphs"]["missing"]
        if isinstance(missing, list) and missing:
            wanted = [str(digest) for digest in missing]
            lacking[reply.metadata.src_node_id] = [d for d in wanted if d in digests]
    return lacking
