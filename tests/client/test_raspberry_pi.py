"""The instructions' configuration is one that the daemon takes."""

import re
import tomllib
from pathlib import Path

from client.conditions import Conditions
from client.config import DaemonConfig
from client.sources.folder import FolderSettings
from client.sources.mqtt_topic import MqttTopicSettings
from client.sources.pipe import PipeSettings
from client.sources.replay import ReplaySettings

PAGE = (Path(__file__).parents[2] / "client" / "RASPBERRY_PI.md").read_text()
SOURCES = {
    "pipe": PipeSettings,
    "folder": FolderSettings,
    "mqtt-topic": MqttTopicSettings,
    "replay": ReplaySettings,
}


def test_the_configuration_is_good(tmp_path):
    (block,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "config.toml"
    path.write_text(block)
    config = DaemonConfig.load(path)
    PipeSettings.model_validate(tomllib.loads(block)["windows"]["settings"])
    Conditions(config.conditions)
    assert config.device == "wrist-1"


def test_the_table_names_every_setting():
    common = set(SOURCES["pipe"].__mro__[1].model_fields)
    for source, settings in SOURCES.items():
        (row,) = re.findall(rf"^\| `{source}` \| (.*?) \|", PAGE, re.MULTILINE)
        assert set(re.findall(r"`(\w+)`", row)) == set(settings.model_fields) - common
    (line,) = re.findall(r"settings beside (.*):", PAGE)
    assert set(re.findall(r"`(\w+)`", line)) == common
