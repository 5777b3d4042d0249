"""A server of one round of the graphs written by hand, to be killed.

Arguments: port, folder, names of the devices separated by commas, the training's steps. Prints, by
node, what the round's border made of each reply: a digest of the weights, or why it was refused.
"""

import json
import sys
from hashlib import sha256
from pathlib import Path

from flwr.app import Message

from schemas.link import PahoLink
from schemas.objects import ObjectStore
from schemas.payload import Payload
from schemas.wire import node_of
from server.border import admit, weights_of
from server.transport import Ledger, MqttGrid
from server.transport.records import records_of
from tests.client import handmade


def main(port: int, folder: Path, names: list[str], steps: int) -> None:
    made = {name: getattr(handmade, name)() for name in ("step", "statistics", "forward")}
    graphs = {name: sha256(data).hexdigest() for name, data in made.items()}
    install = Payload(config={"graphs": {graphs[name]: made[name] for name in made}})
    ledger = Ledger(folder / "ledger.sqlite")
    for name in names:
        ledger.add_device(name)
    link = PahoLink("127.0.0.1", port, "server", backoff=(0.1, 0.5))

    def asks(action: str, payload: Payload) -> list[Message]:
        return [Message(records_of(payload), node_of(name), action, group_id="1") for name in names]

    with MqttGrid(link, ObjectStore(folder / "objects", 1 << 28), ledger, interval=0.1) as grid:
        assert len(grid.wait_for(len(names), 20)) == len(names)
        installed = grid.send_and_receive(asks("query.install", install), timeout=30)
        assert not [reply.error for reply in installed if reply.has_error()]
        sys.stdout.write("installed\n")
        sys.stdout.flush()
        requests = asks("train", handmade.training(graphs, 1, steps))
        admitted = admit(requests, grid.send_and_receive(requests, timeout=60), 1e9, 60)
        answers: dict[str, str] = {str(node): why for node, why in admitted.failures.items()}
        for update in admitted.updates:
            digest = sha256(weights_of(update).tobytes()).hexdigest()
            answers[str(update.metadata.src_node_id)] = digest
        drops = {" ".join(key): count for key, count in grid.drops().items()}
        sys.stdout.write(json.dumps({"answers": answers, "drops": drops}) + "\n")
    ledger.close()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].split(","), int(sys.argv[4]))
