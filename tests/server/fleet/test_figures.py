"""How long it takes: 1,000 devices from a CSV, and the lists of 10,000.

pytest -m study -s tests/server/fleet/test_figures.py
"""

import csv
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import insert

from client.enrolment import enrol
from client.identity import Identity
from schemas.enrolment import ClaimText
from schemas.fleet import FleetFolder
from schemas.wire import node_of
from server.fleet.registry import Certificate, Claim, Device, Key, Registry, Tag
from server.transport.tables import DeviceRow
from tests.mosquitto import free_port

pytestmark = pytest.mark.study
PROGRAM = (sys.executable, "-c", "from server.cli import main; main()")


def say(line):
    """Print where ``-s`` shows it."""
    sys.stdout.write(f"\n{line}")


def fleet(root, *words):
    """Run a command on the fleet; seconds it took."""
    began = time.perf_counter()
    done = subprocess.run(
        [*PROGRAM, *words],
        env=os.environ | {"FLWR_FLEET": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - began


def test_a_thousand_devices_from_a_csv(tmp_path):
    root, port, count = tmp_path / "fleet", free_port(), 1000
    fleet(root, "init", str(root), "--port", str(port))
    names = tmp_path / "names.csv"
    names.write_text("device,tags\n" + "".join(f"watch-{n},pilot\n" for n in range(count)))
    serving = subprocess.Popen([*PROGRAM, "serve", "--fleet", root], stderr=subprocess.DEVNULL)
    try:
        time.sleep(10)
        began = time.perf_counter()
        listed = fleet(root, "device", "import", str(names), "--claims", str(tmp_path / "c.csv"))
        with (tmp_path / "c.csv").open() as file:
            rows = list(csv.DictReader(file))

        def join(row):
            identity = Identity(tmp_path / "devices" / row["device"])
            claim = ClaimText.parse(row["claim"])
            return enrol(identity, f"localhost:{port}", claim, row["device"], lambda _: None)

        with ThreadPoolExecutor(8) as pool:
            states = {reply.state for reply in pool.map(join, rows)}
        total = time.perf_counter() - began
    finally:
        serving.terminate()
        serving.wait(20)
    assert states == {"accepted"}
    fleet(root, "audit", "verify")
    say(f"{count} devices enrolled in {total:.1f} s, of which {listed:.1f} s was the CSV")
    say(f"({cpu():.1f} s of processor time, server and devices together)")
    assert total < 60


def test_lists_of_ten_thousand(tmp_path):
    root, count = tmp_path / "fleet", 10_000
    fleet(root, "init", str(root))
    folder = FleetFolder(root)
    with Registry(folder.database(folder.config())) as registry:
        fill(registry, count)
    commands = [
        ("device", "list"),
        ("device", "list", "--format", "json"),
        ("device", "list", "--tag", "tag-3"),
        ("device", "list", "--state", "revoked"),
        ("device", "show", "watch-77"),
        ("device", "export"),
        ("claim", "list"),
        ("bundle", "list"),
        ("rollout", "list"),
        ("audit", "show"),
        ("audit", "verify"),
    ]
    say(f"seconds with {count} devices, claims and rows of the log, of which starting is")
    commands.insert(0, ("device", "--help"))
    for words in commands:
        took = min(fleet(root, *words) for _ in range(3))
        say(f"  {' '.join(words):<32} {took:.2f}")


def cpu():
    """Seconds of processor time, of this process and the children that ended."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def fill(registry, count):
    """Devices as enrolment leaves them."""
    now, end = time.time(), time.time() + 1e6
    names = [f"watch-{number}" for number in range(count)]
    ids = [f"{number:064x}" for number in range(count)]
    claims = [{"id": i[-12:], "secret": i, "created": now, "expires": end, "tags": []} for i in ids]
    devices = [
        {"id": name, "state": "accepted", "created": now, "changed": now, "claim": i[-12:]}
        for name, i in zip(names, ids, strict=True)
    ]
    keys = [
        {"id": i, "device": name, "state": "accepted", "kind": "ec", "created": now, "changed": now}
        for name, i in zip(names, ids, strict=True)
    ]
    certificates = [
        {"serial": i[-40:], "use": "device", "subject": name, "device": name, "key": i}
        | {"issuer": i, "not_before": now, "not_after": end, "pem": "x" * 800}
        for name, i in zip(names, ids, strict=True)
    ]
    tags = [{"device": name, "tag": f"tag-{n % 10}"} for n, name in enumerate(names)]
    nodes = [{"id": name, "node": node_of(name)} for name in names]
    with registry.write("operator:study") as write:
        tables = (Claim, Device, Key, Certificate, Tag, DeviceRow)
        for table, rows in zip(
            tables, (claims, devices, keys, certificates, tags, nodes), strict=True
        ):
            write.db.execute(insert(table), rows)
        for name in names:
            write.audit("device.enrol", name, state="accepted")
