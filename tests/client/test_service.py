import configparser
import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from client.service import (
    SYSUSERS,
    UNIT,
    Service,
    install,
    plan,
    sd_notify,
    watchdog_interval,
)
from schemas.base import ConfigError


def parsed(unit):
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str
    parser.read_string(unit)
    return parser


def test_the_unit_says_what_was_asked():
    service = Service(
        Path("/etc/a.toml"), Path("/opt/edge/bin/flwr-edge"), "edge", memory="300M", watchdog=60
    )
    unit = parsed(service.unit())["Service"]
    assert unit["ExecStart"] == "/opt/edge/bin/flwr-edge run --config /etc/a.toml"
    assert (unit["Type"], unit["NotifyAccess"]) == ("notify", "main")
    assert (unit["User"], unit["Group"]) == ("edge", "edge")
    assert (unit["MemoryMax"], unit["WatchdogSec"]) == ("300M", "60")
    assert unit["ProtectHome"] == "yes"
    assert "{" not in service.unit()
    assert "u edge -" in service.sysusers()


def test_a_program_at_home_may_be_read():
    unit = Service(program=Path("/home/pi/venv/bin/flwr-edge")).unit()
    assert parsed(unit)["Service"]["ProtectHome"] == "read-only"


@pytest.mark.parametrize("home", ["/home/pi/a.toml", "/root/a.toml", "/run/user/1000/a.toml"])
def test_a_configuration_at_home_may_be_read(home):
    unit = Service(Path(home), Path("/opt/edge/bin/flwr-edge")).unit()
    assert parsed(unit)["Service"]["ProtectHome"] == "read-only"


CONFIG = """
device = "a"
state = "{state}"
[windows]
source = "folder"
settings = {{ path = "{path}", time = 1, channels = 1 }}
"""


@pytest.mark.parametrize(
    ("state", "path", "writes", "home"),
    [
        ("/var/lib/flwr-edge", "/var/lib/flwr-edge/in", [], "yes"),
        ("/srv/edge", "/srv/edge/in", ["/srv/edge"], "yes"),
        ("/var/lib/flwr-edge", "/srv/in", ["/srv/in"], "yes"),
        ("/srv/my edge", "/home/pi/100%", ["/srv/my edge", "/home/pi/100%%"], "read-only"),
    ],
)
def test_folders_that_files_leave_may_be_written_to(tmp_path, state, path, writes, home):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "a.toml").write_text(CONFIG.format(state=state, path=path))
    service = Service(Path("/etc/a.toml"), Path("/opt/edge/bin/flwr-edge"))
    install(service, tmp_path)
    text = (tmp_path / UNIT).read_text()
    found = [line for line in text.splitlines() if line.startswith("ReadWritePaths")]
    assert found == [f'ReadWritePaths="-{path}"' for path in writes]
    assert f"ProtectHome={home}\n" in text


SENSOR = """
device = "a"
[windows]
source = "{source}"
settings = {{ path = "{path}", time = 1, channels = 1 }}
"""


@pytest.mark.parametrize("source", ["pipe", "replay"])
def test_a_sensor_at_home_may_be_read(tmp_path, source):
    (tmp_path / "a.toml").write_text(SENSOR.format(source=source, path="/home/pi/imu"))
    unit = Service(Path("/a.toml"), Path("/opt/edge/bin/flwr-edge")).unit(tmp_path)
    assert parsed(unit)["Service"]["ProtectHome"] == "read-only"


@pytest.mark.parametrize("path", ["/tmp/imu", "/var/tmp/in/imu"])
def test_what_a_tmp_of_its_own_would_hide_is_refused(tmp_path, path):
    (tmp_path / "a.toml").write_text(SENSOR.format(source="pipe", path=path))
    with pytest.raises(ConfigError, match=f"{path}: the service has a /tmp of its own"):
        Service(Path("/a.toml")).unit(tmp_path)


def test_relative_paths_start_where_an_image_will_have_the_file(tmp_path):
    (tmp_path / "srv").mkdir()
    (tmp_path / "srv" / "a.toml").write_text(CONFIG.format(state="state", path="/srv/state/in"))
    assert 'ReadWritePaths="-/srv/state"\n' in Service(Path("/srv/a.toml")).unit(tmp_path)


def test_a_configuration_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    """As enrolment leaves it, root's alone: a plan without it would not be what sudo does."""
    (tmp_path / "a.toml").write_text(CONFIG.format(state="/srv/edge", path="/srv/in"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match=r"a\.toml: the user .* cannot read it"):
        plan(Service(Path("/a.toml")), tmp_path)


def test_a_folder_that_would_write_into_the_unit_is_refused(tmp_path):
    (tmp_path / "a.toml").write_text(CONFIG.format(state="/a\\nExecStartPre=/x", path="/in"))
    with pytest.raises(ConfigError, match="without quotes or control characters"):
        Service(tmp_path / "a.toml").unit()


def test_the_unit_is_on_the_disk_before_it_takes_the_place(tmp_path, monkeypatch):
    synced = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (synced.append(file), sync(file)))
    install(Service(), tmp_path)
    assert len(synced) == 4  # two files, and their folders


def test_the_service_may_read_its_configuration():
    """Which is not for everybody: before it is started, its group may."""
    steps = Service(user="edge", config=Path("/etc/a.toml")).steps()
    at = steps.index(("chgrp", "edge", "/etc/a.toml"))
    assert [step[0] for step in steps[:at]] == ["systemd-sysusers"]
    assert steps[-1] == ("systemctl", "restart", "flwr-edge.service")


def test_odd_paths_are_quoted():
    unit = Service(Path("/etc/my %i $HOME.toml"), Path("/opt/e/flwr-edge")).unit()
    assert 'ExecStart=/opt/e/flwr-edge run --config "/etc/my %%i $$HOME.toml"' in unit


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"config": Path("a.toml")}, "--config a.toml: expected an absolute path"),
        ({"config": Path("/a\nExecStartPre=/bin/sh")}, "without quotes or control characters"),
        ({"program": Path("flwr-edge")}, "--program flwr-edge: expected an absolute"),
        ({"user": "Bad User"}, "--user 'Bad User'"),
        ({"user": "x\nUser=root"}, "--user"),
        ({"memory": "lots"}, "expected a size as in 256M"),
        ({"memory": "0"}, "expected a size"),
        ({"watchdog": 14}, "expected 15 to 3600 seconds"),
    ],
)
def test_what_would_not_work_is_refused(wrong, said):
    with pytest.raises(ConfigError) as caught:
        Service(**wrong)
    assert said in str(caught.value)


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_understands_the_unit(tmp_path):
    program = tmp_path / "flwr-edge"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "flwr-edge.service"
    unit.write_text(Service(program=program, user="nobody").unit())
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], check=False, capture_output=True, text=True
    )
    said = [line for line in done.stderr.splitlines() if "flwr-edge" in line]
    assert not [line for line in said if "Unknown" in line or "Failed to parse" in line], said


def test_another_root_gets_files_and_nothing_is_run(tmp_path):
    done = install(Service(), tmp_path, call=lambda words: pytest.fail(f"ran {words}"))
    assert (tmp_path / UNIT).read_text() == Service().unit()
    assert (tmp_path / SYSUSERS).read_text() == Service().sysusers()
    assert stat.S_IMODE((tmp_path / UNIT).stat().st_mode) == 0o644
    assert done == [f"wrote {tmp_path / SYSUSERS}", f"wrote {tmp_path / UNIT}"]
    assert install(Service(memory="1G"), tmp_path) == done
    assert "MemoryMax=1G" in (tmp_path / UNIT).read_text()
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2


def test_the_plan_names_every_file_and_command():
    text = plan(Service())
    assert "# /etc/systemd/system/flwr-edge.service\n[Unit]" in text
    assert "# run: systemctl daemon-reload" in text
    assert "# run: systemctl restart flwr-edge.service" in text
    assert "# run" not in plan(Service(), Path("/mnt/image"))


@pytest.fixture
def systemd(tmp_path, monkeypatch):
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        yield listener


def test_systemd_is_told(systemd):
    assert sd_notify("READY=1\nSTATUS=connected")
    assert systemd.recv(100) == b"READY=1\nSTATUS=connected"


def test_an_abstract_socket_is_told(monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0flwr-edge-test-{id(listener)}")
        listener.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + listener.getsockname()[1:].decode())
        assert sd_notify("WATCHDOG=1")
        assert listener.recv(100) == b"WATCHDOG=1"


@pytest.mark.parametrize("name", ["", "relative", "/no/such/socket", "/" + "x" * 200])
def test_without_systemd_nothing_happens(monkeypatch, name):
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    assert not sd_notify("READY=1")


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("120000000", "", 60),
        ("120000000", "1", None),
        ("", "", None),
        ("0", "", None),
        ("x", "", None),
    ],
)
def test_the_watchdog_is_told_twice_in_its_time(monkeypatch, usec, pid, seconds):
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    assert watchdog_interval() == seconds


def test_the_default_program_stands_beside_python():
    assert Service().program == Path(sys.executable).parent / "flwr-edge"
