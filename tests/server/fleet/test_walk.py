"""The README's walk from ``flwr-fleet init`` to a revoked device, word for word."""

import contextlib
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mosquitto import free_port, program

ROOT = Path(__file__).parents[3]


def walk():
    """The block below its heading, as it stands."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.split("### From nothing to a revoked device\n\n")[1]
    block = re.match(r"(?:    .*\n)+", section)
    assert block is not None
    return block[0]


def two_free_ports():
    """The first of two in a row that nobody listens on."""
    while True:
        port = free_port()
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port + 1))
            return port


@pytest.mark.skipif(program() is None, reason="mosquitto is not installed")
def test_the_walk(tmp_path):
    lines = walk()
    assert lines.count("\n") >= 10
    script = f"trap 'kill $(jobs -p) && wait' EXIT\nset -e -o pipefail\n{lines}"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:{Path(program()).parent}"
    ports = {"PORT": str(free_port()), "BROKER": str(two_free_ports())}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={"PATH": path, "HOME": str(tmp_path), "USER": "ann"} | ports,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "good; device watch-7" in done.stdout
    assert re.search(r"watch-7 +accepted", done.stdout)
    assert re.search(r"watch-7 +\d\.\d+ +good", done.stdout)
    assert "no such device is online" in done.stderr
    assert "enrolled as watch-7" in done.stderr
    assert "revoked 1" in done.stderr
    assert "was used already" in done.stderr
    assert "none was changed, removed or moved" in done.stdout
    assert "PRIVATE KEY" not in done.stdout + done.stderr


def test_an_absent_server_is_waited_for_and_said(monkeypatch):
    from client import enrolment

    monkeypatch.setattr(enrolment, "_UP", 0.5)
    monkeypatch.setattr(enrolment, "_LEAST", 0.2)
    said: list[str] = []
    with pytest.raises(enrolment.EnrolmentError, match="refused"):
        enrolment._reached(f"localhost:{free_port()}", "00" * 32, said.append)
    assert len(said) == 1
    assert "trying again" in said[0]
