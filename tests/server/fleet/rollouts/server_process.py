"""The roll-outs' server in a process of its own, which a test kills."""

import sys
import time
from pathlib import Path

from schemas.fleet import FleetFolder
from schemas.link import PahoLink
from server.fleet.rollouts.service import Service


def main() -> None:
    """Serve the fleet in a folder, until killed."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    root, port, key = sys.argv[1:]
    folder = FleetFolder(Path(root))
    private = load_pem_private_key(Path(key).read_bytes(), None)
    link = PahoLink("127.0.0.1", int(port), "server")
    Service(folder, folder.config(), private, link, every=0.2).start()
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
