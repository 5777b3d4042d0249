"""The daemon's file: what is good, and how what is wrong is told."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from client.config import DaemonConfig
from client.identity import FILES
from schemas.base import ConfigError
from tests.certificates import certificates

GOOD = """
device = "pi-1"
state = "kept"

[broker]
host = "hub.local"
tls = { ca = "ca.pem" }

[windows]
folder = "windows"

[conditions]
hours = ["22:00-06:00"]
"""


@pytest.fixture
def load(tmp_path):
    def read(text: str) -> DaemonConfig:
        path = tmp_path / "pi.toml"
        path.write_text(text)
        return DaemonConfig.load(path)

    return read


def test_a_mark_before_the_text_is_none_of_it_and_utf_16_is_said(tmp_path):
    path = tmp_path / "pi.toml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert DaemonConfig.load(path).device == "pi-1"
    path.write_bytes(GOOD.encode("utf-16"))
    with pytest.raises(ConfigError, match=r"pi\.toml: line 1: expected UTF-8, and found UTF-16"):
        DaemonConfig.load(path)


def test_paths_start_at_the_file(load, tmp_path):
    config = load(GOOD)
    assert config.state == tmp_path / "kept"
    assert config.windows.folder == tmp_path / "windows"
    assert config.broker.tls.ca == tmp_path / "ca.pem"
    assert config.broker.number == 8883
    assert config.conditions.hours == ("22:00-06:00",)


def test_defaults(load):
    config = load('device = "a"\n[windows]\nfolder = "w"\n')
    assert config.broker.number == 1883
    assert config.fleet_key is None
    assert config.state == Path("/var/lib/flwr-edge")


@pytest.mark.parametrize(
    ("denied", "said"),
    [
        ("kept", "state: the user .* cannot write to {}"),
        ("", "state: the user .* cannot write to {}"),  # and there is no state yet
        ("windows", "windows.folder: the user .* cannot read {}"),
    ],
)
def test_what_this_user_may_not_use_is_named(load, tmp_path, monkeypatch, denied, said):
    config = load(GOOD.replace('tls = { ca = "ca.pem" }', ""))
    (tmp_path / "windows").mkdir()
    if denied:
        (tmp_path / denied).mkdir(exist_ok=True)
    path = tmp_path / denied
    monkeypatch.setattr(os, "access", lambda asked, _: asked != path)
    (problem,) = config.missing()
    assert re.fullmatch(said.format(path), problem)


def test_missing_files_are_named_before_the_start(load, tmp_path):
    (tmp_path / "windows").mkdir()
    assert load(GOOD).missing() == [f"broker.tls.ca: no {tmp_path / 'ca.pem'}"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('device = "Pi 1"\n[windows]\nfolder = "w"', "device = 'Pi 1'"),
        ('device = "a"', "windows: missing"),
        ('device = "a"\n[windows]\n', "expected a folder of windows, or the source of a sensor"),
        ('device = "a"\nport = 3\n[windows]\nfolder = "w"', "port = 3: unknown key; allowed here"),
        ('device = "a"\n[windows]\nfolder = "w"\n[broker]\nport = 0', "broker.port = 0"),
        ('device = "a"\n[windows]\nfolder = "w"\n[broker.tls]\nca="a"\nkey="k"', "go together"),
        ('device = "a"\nfleet_key = "12"\n[windows]\nfolder = "w"', "fleet_key = '12'"),
        ('device = "a', "Unterminated string"),
        ('device = "-a"\n[windows]\nfolder = "w"', "device = '-a'"),
        ('device = "a"\nstate = "a\\u0000b"\n[windows]\nfolder = "w"', "cannot have a NUL"),
        ('device = "a"\n[windows]\nfolder = "w"\n[broker]\nhost = ".a"', "broker.host = '.a'"),
        (f'device = "a"\n[windows]\nfolder = "w"\n[broker]\nhost = "{"x" * 64}.b"', "1 to 63"),
    ],
)
def test_what_is_wrong_is_told_with_file_and_key(load, text, said):
    with pytest.raises(ConfigError) as wrong:
        load(text)
    assert "pi.toml" in str(wrong.value)
    assert said in str(wrong.value)


def test_no_such_file(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        DaemonConfig.load(tmp_path / "none.toml")


def test_a_sensors_settings_are_checked_before_the_start(load, tmp_path):
    sensor = 'device = "a"\n[windows]\nsource = "{}"\n[windows.settings]\nbytes = 3\n'
    assert "'lidar': no such source; installed: " in load(sensor.format("lidar")).missing()[0]
    said = load(sensor.format("pipe")).missing()
    assert any("bytes = 3: unknown key; allowed here" in line for line in said)
    assert "windows.settings: time: missing; it has no default" in said


@pytest.mark.parametrize(
    "host", ["hub", "hub.local.", "10.0.0.1", "::1", "fe80::1%eth0", "bücher.de"]
)
def test_hosts(load, host):
    config = load(f'device = "a"\n[windows]\nfolder = "w"\n[broker]\nhost = "{host}"\n')
    assert config.broker.host == host


def test_a_pipe_is_no_configuration(tmp_path):
    os.mkfifo(tmp_path / "pi.toml")
    with pytest.raises(ConfigError, match=r"pi\.toml: is no plain file"):
        DaemonConfig.load(tmp_path / "pi.toml")


def test_what_is_there_and_cannot_serve_is_named_before_the_start(load, tmp_path):
    for name in ("windows", "kept", "ca.pem"):
        (tmp_path / name).write_text("a file")
    (tmp_path / "identity").mkdir()
    said = load(f'{GOOD}\n[rotation]\nidentity = "identity"\n').missing()
    assert said[:3] == [
        f"state: {tmp_path / 'kept'} is no folder",
        f"windows.folder: {tmp_path / 'windows'} is no folder",
        f"rotation.identity: no identity in {tmp_path / 'identity'}; flwr-edge enroll makes one",
    ]
    assert said[3].startswith(f"broker.tls: {tmp_path / 'ca.pem'}: no certificates")
    assert len(said) == 4


def test_what_can_serve_is_good(load, tmp_path):
    (tmp_path / "windows").mkdir()
    certificates(tmp_path)
    (tmp_path / "identity" / "current").mkdir(parents=True)
    for name in FILES:
        (tmp_path / "identity" / "current" / name).touch()
    assert load(f'{GOOD}\n[rotation]\nidentity = "identity"\n').missing() == []


SENSOR = 'device = "a"\n[windows]\nsource = "{}"\n[windows.settings]\ntime = 9\nchannels = 1\n{}\n'


@pytest.mark.parametrize(
    ("source", "settings", "said"),
    [
        ("pipe", 'path = "/p"\ntime = 60000', "limit_bytes = 1048576: of its fifth for test"),
        ("mqtt-topic", 'topic = "a/#/b"', "topic = 'a/#/b': expected a topic or a filter"),
        ("mqtt-topic", 'topic = "a"\nhost = ".a"', "host = '.a': expected a host's name"),
        ("replay", 'path = "{tmp}/none.npz"', "none.npz: no such file or folder"),
        ("folder", 'path = "{tmp}/file"', "cannot remove files in"),
        ("pipe", 'path = "/a\\u0000b"', "a path cannot have a NUL"),
    ],
)
def test_a_sensor_that_cannot_work_is_named_before_the_start(
    load, tmp_path, source, settings, said
):
    (tmp_path / "file").touch()
    text = SENSOR.format(source, settings.replace("{tmp}", str(tmp_path)))
    if "60000" in text:
        text = text.replace("time = 9\n", "limit_bytes = 1048576\n")
    (problem,) = load(text).missing()
    assert problem.startswith("windows.settings: ")
    assert said in problem


def test_sensors_that_can_work(load, tmp_path):
    np.savez(tmp_path / "set.npz", train=np.zeros(1))
    for source, settings in (
        ("replay", f'path = "{tmp_path}/set.npz"'),
        ("folder", f'path = "{tmp_path}/new/in"'),
        ("mqtt-topic", 'topic = "a/+/#"'),
    ):
        assert load(SENSOR.format(source, settings)).missing() == []
