"""The daemon's file: what is good, and how what is wrong is told."""

from pathlib import Path

import pytest

from client.config import DaemonConfig
from schemas.base import ConfigError

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
