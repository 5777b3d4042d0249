"""The instructions' configuration is one that the daemon takes."""

import ast
import json
import re
import tomllib
from pathlib import Path

from client.conditions import Conditions
from client.config import DaemonConfig
from client.config_file import updated
from client.local_api import LocalApi
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


def test_an_enrolled_device_takes_the_tables_after_the_broker(tmp_path):
    """Beside what enrolment wrote, [windows] would be there twice."""
    path, windows = tmp_path / "config.toml", {"windows": {"folder": str(tmp_path)}}
    updated(path, {"device": "wrist-1", "broker": {"host": "fleet.example"}}, windows)
    (block,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    tables = block[block.index("[windows]") :]
    own = f'[windows]\nfolder = "{tmp_path}"\n'
    assert own in path.read_text()
    assert "in place of the `[windows]`" in PAGE
    path.write_text(path.read_text().replace(own, tables))
    config = DaemonConfig.load(path)
    assert (config.broker.host, config.windows.source) == ("fleet.example", "pipe")


def test_the_program_that_predicts_gets_an_answer(tmp_path, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (said,) = re.findall(r'^    (\{"ok".*)', PAGE, re.MULTILINE)
    api = LocalApi(tmp_path / "s", {"predict": lambda _: json.loads(said)["answer"]})
    api.start()
    exec(code.replace("/run/flwr-edge/api.sock", str(tmp_path / "s")), {})
    api.stop()
    assert ast.literal_eval(capsys.readouterr().out) == json.loads(said)


def test_the_table_names_every_setting():
    common = set(SOURCES["pipe"].__mro__[1].model_fields)
    for source, settings in SOURCES.items():
        (row,) = re.findall(rf"^\| `{source}` \| (.*?) \|", PAGE, re.MULTILINE)
        assert set(re.findall(r"`(\w+)`", row)) == set(settings.model_fields) - common
    (line,) = re.findall(r"settings beside (.*):", PAGE)
    assert set(re.findall(r"`(\w+)`", line)) == common
