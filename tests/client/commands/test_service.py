import argparse
from pathlib import Path

import pytest

from client.commands import service
from client.service import UNIT, Service, plan
from schemas.base import ConfigError


def flwr_edge(*words):
    parser = argparse.ArgumentParser()
    service.register(parser.add_subparsers(required=True))
    parsed = parser.parse_args(["install-service", *map(str, words)])
    parsed.run(parsed)


def test_a_dry_run_prints_and_changes_nothing(capsys):
    flwr_edge("--dry-run", "--memory", "300M")
    assert capsys.readouterr().out == plan(Service(memory="300M"))


def test_into_an_image(tmp_path, capsys):
    flwr_edge("--root", tmp_path, "--user", "edge")
    assert "User=edge" in (tmp_path / UNIT).read_text()
    assert f"wrote {tmp_path / UNIT}" in capsys.readouterr().out


def test_what_could_not_start_is_not_installed(tmp_path):
    with pytest.raises(ConfigError) as caught:
        flwr_edge("--program", tmp_path / "none", "--config", tmp_path / "none.toml")
    assert "--program" in str(caught.value)
    assert "none.toml: no such file; write it first" in str(caught.value)
    assert not Path("/", UNIT).exists()


def test_a_configuration_that_is_wrong_is_not_installed(tmp_path, monkeypatch):
    """Its unit would allow too little, and the daemon could not start."""
    monkeypatch.setattr(service, "install", lambda *_: pytest.fail("it is installed"))
    config = tmp_path / "a.toml"
    config.write_text('device = "a"\n[windoes]\n')
    with pytest.raises(ConfigError, match=r"a\.toml"):
        flwr_edge("--program", __file__, "--config", config)
