"""``flwr-edge run``: what it says before it starts."""

import subprocess
import sys

import pytest

from client import bundle, cli
from tests.certificates import certificates
from tests.client import small_models


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main(["run", *map(str, arguments)])
    return ended.value.code


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "pi.toml"
    (tmp_path / "windows").mkdir()
    path.write_text('device = "pi-1"\n[windows]\nfolder = "windows"\n')
    return path


def test_check_says_that_it_is_good(config, capsys):
    assert run("--config", config, "--check") == 0
    assert "good; device pi-1" in capsys.readouterr().out
    assert not (config.parent / "state").exists()


def test_check_says_what_is_wrong(config, capsys):
    config.write_text('device = "pi-1"\n[windows]\nfolder = "gone"\n')
    assert run("--config", config, "--check") == 2
    assert "windows.folder: no " in capsys.readouterr().err


@pytest.mark.parametrize(("days", "code"), [(1, 0), (-1, 2)])
def test_check_says_where_the_certificate_has_expired(config, capsys, days, code):
    lines = (f'{name} = "{path}"\n' for name, path in certificates(config.parent, days).items())
    config.write_text(f"{config.read_text()}[broker.tls]\n{''.join(lines)}")
    assert run("--config", config, "--check") == code
    said = capsys.readouterr().err
    assert ("broker.tls.certificate: " in said) == bool(code)
    assert ("ca.pem: the certificate has expired, 20" in said) == bool(code)


def test_check_opens_the_bundle_that_it_predicts_with(config, capsys):
    text, path = config.read_text(), config.parent / "ann.flwb"
    named = '[model]\nbundle = "ann.flwb"\n'
    config.write_text(text + named)
    assert run("--config", config, "--check") == 2
    assert f"model.bundle: no {path}" in capsys.readouterr().err
    bundle.write(path, small_models.card(bits=2, form="edge"), small_models.lut())
    assert run("--config", config, "--check") == 0
    config.write_text(f'fleet_key = "{"ab" * 32}"\n{text}{named}')
    assert run("--config", config, "--check") == 2
    assert "ann.flwb: not signed; only bundles of the fleet" in capsys.readouterr().err


def test_check_says_where_the_bundle_would_not_predict(config, capsys, monkeypatch):
    path = config.parent / "ann.flwb"
    bundle.write(path, small_models.card(bits=2, form="edge"), small_models.lut())
    config.write_text(
        f'device = "pi-1"\nstate = "state"\n[model]\nbundle = "ann.flwb"\n[windows]\n'
        f'source = "pipe"\nsettings = {{ path = "{config.parent}/imu", time = 50, channels = 3 }}\n'
    )
    assert run("--config", config, "--check") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("pi.toml: windows.settings.time = 50; the bundle takes windows of 40")
    config.write_text(config.read_text().replace("time = 50", "time = 40"))
    assert run("--config", config, "--check") == 0
    monkeypatch.setattr("client.bundle.checks.onnxruntime.__version__", "1.19.2")
    assert run("--config", config, "--check") == 2
    assert "model.bundle: needs onnxruntime 1.20 or newer; here is 1.19.2" in (
        capsys.readouterr().err
    )


def test_the_daemon_loads_nothing_heavy():
    script = "import client.start, client.commands.daemon, sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"numpy", "onnxruntime", "safetensors", "cryptography", "torch", "flwr"}
