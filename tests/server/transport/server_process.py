"""A server of one round, to be killed: asks devices for their doubled weights and prints sums.

Arguments: port, folder, names of the devices separated by commas.
"""

import json
import sys
from pathlib import Path

from flwr.app import Array, ArrayRecord, Message, RecordDict

from schemas.link import PahoLink
from schemas.objects import ObjectStore
from schemas.wire import node_of
from server.transport import Ledger, MqttGrid
from tests.server.transport.fake_device import weights


def main(port: int, folder: Path, names: list[str]) -> None:
    ledger = Ledger(folder / "ledger.sqlite")
    for name in names:
        ledger.add_device(name)
    link = PahoLink("127.0.0.1", port, "server")
    with MqttGrid(link, ObjectStore(folder / "objects", 1 << 28), ledger, interval=0.1) as grid:
        grid.wait_for(len(names), 10)
        requests = [
            Message(
                RecordDict({"arrays": ArrayRecord({"weights": Array(weights(at, 100_000))})}),
                node_of(name),
                "train",
                group_id="1",
            )
            for at, name in enumerate(names)
        ]
        replies = grid.send_and_receive(requests, timeout=30)
        answers = {
            str(reply.metadata.src_node_id): reply.error.reason
            if reply.has_error()
            else float(reply.content.array_records["delta"]["weights"].numpy()[:10].sum())
            for reply in replies
        }
        sys.stdout.write(json.dumps(answers) + "\n")
    ledger.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].split(","))
