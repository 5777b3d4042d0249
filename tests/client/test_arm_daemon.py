"""aarch64 in qemu: the daemon says what runs, checks its file, and connects to a broker."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from schemas.link import PahoLink
from tests.client import handmade
from tests.client.hub import Hub
from tests.mosquitto import program, running

ROOT = Path(__file__).parents[1] / "arm" / "root.py"
UNAVAILABLE = 69
CPU = "cortex-a53"  # of a Raspberry Pi 3
DEVICE = "pi-arm"
START = 240.0  # seconds, emulated, on a busy machine; and for packages that are fetched


@pytest.fixture
def config(tmp_path: Path) -> Path:
    handmade.windows(tmp_path / "windows")
    path = tmp_path / "pi.toml"
    path.write_text(
        f'device = "{DEVICE}"\nstate = "state"\n[broker]\nhost = "127.0.0.1"\nport = 1\n'
        '[windows]\nfolder = "windows"\n'
    )
    return path


# An interpreter's start is nine tenths of a command in qemu: the three share one.
SOURCE = """
import sys
from client.cli import main

words = sys.argv[1:]
for first in (["info"], [*words, "--check"]):
    try:
        main(first)
    except SystemExit as ended:
        if ended.code:
            raise
sys.stdout.flush()
main(words)
"""


def command(folder: Path, *words: str) -> list[str]:
    """``flwr-edge`` in qemu: ``root.py`` becomes the emulator."""
    script = folder / "flwr_edge.py"
    script.write_text(SOURCE)
    return [sys.executable, str(ROOT), "python", "--cpu", CPU, "--daemon", str(script), *words]


@contextmanager
def daemon(config: Path, log: Path, out: Path) -> Iterator[subprocess.Popen[bytes]]:
    words = ["run", "--config", str(config), "--socket", str(config.parent / "s")]
    with log.open("wb") as errors, out.open("wb") as said:
        process = subprocess.Popen(command(config.parent, *words), stdout=said, stderr=errors)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.skipif(program() is None, reason="mosquitto is not installed")
def test_it_says_what_runs_checks_its_file_and_is_online(config: Path, tmp_path: Path) -> None:
    log, out = tmp_path / "log", tmp_path / "out"
    with running(tmp_path / "broker") as broker:
        config.write_text(config.read_text().replace("port = 1\n", f"port = {broker.port}\n"))
        link = PahoLink(broker.host, broker.port, "server")
        hub = Hub(link, DEVICE)
        assert link.wait_connected(10)
        with daemon(config, log, out) as process:
            hub.until(lambda: hub.states or process.poll() is not None, START)
            if process.poll() == UNAVAILABLE:
                pytest.skip(log.read_text().strip())
            assert process.poll() is None, log.read_text()[-2000:]
            assert hub.states[0].online
            process.send_signal(signal.SIGTERM)
            assert process.wait(120) == 0, log.read_text()[-2000:]
        hub.until(lambda: not hub.states[-1].online)
        link.close()
    assert "connected" in log.read_text()
    *lines, checked = out.read_text().splitlines()
    said = dict(line.split(maxsplit=1) for line in lines)
    assert said["isa"] == "neon"
    assert "LutMatMul" in said["ops"]
    assert f"good; device {DEVICE}" in checked
