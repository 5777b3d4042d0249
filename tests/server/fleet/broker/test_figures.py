"""How long a revoked device is still in, while a hundred others talk.

pytest -m study -s tests/server/fleet/broker/test_figures.py
"""

import os
import statistics
import subprocess
import sys
import threading
import time

import pytest
from sqlalchemy import select

from server.fleet.registry import Audit
from tests.server.fleet.broker.conftest import wait

DEVICES, REVOKED, RATE = 100, 8, 4.0  # messages a second of each
PROGRAM = (sys.executable, "-c", "from server.cli import main; main()")
WITHIN = 2.0  # seconds, of the issue


def revoked_by_command(place, name):
    """Revoke a device as an operator does; when the command began and when it was decided."""
    began = time.time()
    words = ("device", "revoke", name, "--yes", "--fleet", str(place.folder.root))
    environment = {key: value for key, value in os.environ.items() if "DONTWRITE" not in key}
    subprocess.run([*PROGRAM, *words], env=environment, check=True, capture_output=True)
    with place.keeper.registry.read() as db:
        row = select(Audit.at).where(Audit.action == "device.revoke", Audit.subject == name)
        return began, db.scalar(row)


@pytest.mark.study
def test_a_revoked_device_is_out_under_load(place):
    names = [f"watch-{number}" for number in range(DEVICES)]
    files = {name: place.enrol(name) for name in names}
    peers = {name: place.connect(files[name], name) for name in names}
    server = place.server()
    server.client.subscribe("flwr/v1/+/evt", 0)
    ended, stop = {}, threading.Event()
    for name, peer in peers.items():
        peer.client.on_disconnect = lambda *_, name=name: ended.setdefault(name, time.time())

    def talk():
        while not stop.is_set():
            began = time.monotonic()
            for name, peer in peers.items():
                if name not in ended:
                    peer.client.publish(f"flwr/v1/{name}/evt", b"x" * 1000, 1)
            stop.wait(max(0.0, began + 1 / RATE - time.monotonic()))

    talking = threading.Thread(target=talk)
    talking.start()
    try:
        wait(lambda: len(server.heard) > 2 * DEVICES)
        heard, since = len(server.heard), time.time()
        figures = []
        for name in names[:REVOKED]:
            began, decided = revoked_by_command(place, name)
            assert wait(lambda name=name: name in ended)
            assert place.refused(files[name], name)
            figures.append((ended[name] - began, ended[name] - decided))
        rate = (len(server.heard) - heard) / (time.time() - since)
    finally:
        stop.set()
        talking.join()
    whole, hands = (list(each) for each in zip(*figures, strict=True))
    sys.stdout.write(
        f"\n{DEVICES} devices, {rate:.0f} messages a second; {REVOKED} revoked, each out after"
        f"\n  {statistics.median(whole):.2f} s (at most {max(whole):.2f}) from the command's start,"
        f"\n  {statistics.median(hands):.2f} s (at most {max(hands):.2f}) from the decision\n"
    )
    assert len(ended) == REVOKED
    assert max(hands) < WITHIN


def test_a_revoked_device_is_out_within_two_seconds(place):
    peer = place.connect(place.enrol("watch-1"), "watch-1")
    began = time.monotonic()
    assert place.revoke("watch-1") == []
    assert wait(lambda: peer.ended)
    assert time.monotonic() - began < WITHIN
