"""``flwr-edge enroll``: what it takes, what it refuses, and the configuration that it writes."""

import io
import os
import shlex
import sys
import tomllib

import pytest

from client import cli, enrolment
from schemas.enrolment import ClaimText, EnrolReply, enrol_url

CLAIM = ClaimText("a1b2c3d4e5f6", "A" * 32, "ab" * 32)
SERVER = "fleet.example:8443"


@pytest.fixture
def asked(monkeypatch):
    """What the server was asked; it says yes."""
    calls = []

    def enrol(_identity, server, claim, device, _say, wait):
        calls.append((server, claim, device, wait))
        broker = {"host": "broker.example", "port": 8883}
        return EnrolReply.model_validate(
            {
                "state": "accepted",
                "device": device,
                "csr_sha256": "0" * 64,
                "broker": broker,
                "fleet_key": "cd" * 32,
            }
        )

    monkeypatch.setattr(enrolment, "enrol", enrol)
    return calls


@pytest.fixture
def run(tmp_path, capsys):
    def call(*words):
        own = ["--config", tmp_path / "pi.toml", "--state", tmp_path / "state"]
        with pytest.raises(SystemExit) as ended:
            cli.main(["enroll", *map(str, [*own, *words])])  # the last counts
        return ended.value.code, capsys.readouterr().err

    return call


def test_every_way_to_hand_a_claim_over(run, asked, tmp_path, monkeypatch):
    file = tmp_path / "claim.txt"
    file.write_text(f"{CLAIM}\nmore\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{CLAIM}\n"))
    for words in (
        [enrol_url(SERVER, CLAIM)],
        ["--server", SERVER, "--claim", CLAIM],
        ["--server", SERVER, "--claim-file", file],
        ["--server", SERVER, "--claim-file", "-"],
    ):
        code, err = run(*words, "--name", "watch-7", "--wait", "3")
        assert code == 0, err
        assert asked.pop() == (SERVER, CLAIM, "watch-7", 3.0)
        assert "enrolled as watch-7; next: flwr-edge run --config" in err
        assert CLAIM.secret not in err


def test_what_comes_next_can_be_pasted(run, asked, tmp_path):
    config = tmp_path / "ann's pi.toml"
    code, err = run("--server", SERVER, "--claim", CLAIM, "--name", "a", "--config", config)
    assert (code, config.exists()) == (0, True)
    assert shlex.split(err.splitlines()[-1])[-2:] == ["--config", str(config)]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_claim_may_come_from_an_editor_that_marks_its_files(run, asked, tmp_path, end):
    file = tmp_path / "claim.txt"
    file.write_bytes(b"\xef\xbb\xbf" + f"{CLAIM}{end}".encode())
    assert run("--server", SERVER, "--claim-file", file, "--name", "watch-7")[0] == 0
    assert asked.pop()[1] == CLAIM


def test_a_claim_that_is_no_utf_8_is_said(run, asked, tmp_path, monkeypatch):
    file = tmp_path / "claim.txt"
    file.write_text(str(CLAIM), encoding="utf-16")
    code, err = run("--server", SERVER, "--claim-file", file)
    assert (code, err) == (
        2,
        f"flwr-edge: {file}: line 1: expected UTF-8, and found UTF-16: save it anew\n",
    )
    piped = io.TextIOWrapper(io.BytesIO(b"\xff\xfe\x00"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", piped)
    code, err = run("--server", SERVER, "--claim-file", "-")
    assert (code, err) == (2, "flwr-edge: standard input: expected UTF-8\n")
    assert asked == []


def test_the_configuration_is_written_and_the_next_time_completed(run, asked, tmp_path):
    assert run("--server", SERVER, "--claim", CLAIM, "--name", "watch-7")[0] == 0
    config = tmp_path / "pi.toml"
    table = tomllib.loads(config.read_text())
    assert table["broker"]["host"] == "broker.example"
    assert table["broker"]["tls"]["key"].startswith(str(tmp_path / "state" / "identity"))
    assert table["fleet_key"] == "cd" * 32
    assert table["rotation"] == {"identity": str(tmp_path / "state" / "identity")}
    assert (tmp_path / "state" / "person").is_dir()
    config.write_text(config.read_text() + "# mine\n")
    code, err = run("--server", SERVER, "--claim", CLAIM, "--name", "watch-8")
    assert code == 0
    assert "pi.toml.before" in err
    assert tomllib.loads(config.read_text()) == table | {"device": "watch-8"}
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "expected URL, or --server and a claim"),
        (["--server", SERVER], "expected URL, or --server and a claim"),
        (["--claim", CLAIM], "expected URL, or --server and a claim"),
        ([enrol_url(SERVER, CLAIM), "--server", SERVER], "expected URL, or --server"),
        (["http://fleet.example/enrol#x"], "expected https"),
        (["--server", SERVER, "--claim", f"{CLAIM.id}.{CLAIM.secret}"], "ID.SECRET.CA"),
        (["--server", SERVER, "--claim", CLAIM, "--name", "Watch 7"], "'Watch 7': expected 1 to"),
        (["--server", SERVER, "--claim", CLAIM, "--name", "-x"], ""),
        (["--server", SERVER, "--claim", CLAIM, "--name=-"], "'-': expected 1 to"),
        (["--server", SERVER, "--claim-file", "/nowhere"], "/nowhere"),
    ],
)
def test_what_is_wrong_is_said_and_nobody_is_asked(run, asked, tmp_path, words, says):
    code, err = run(*words)
    assert code != 0
    assert says in err
    assert CLAIM.secret not in err
    assert asked == []
    assert not (tmp_path / "pi.toml").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_root_makes_belongs_to_whom_the_state_does(run, asked, tmp_path):
    service = (4321, 4322)
    (tmp_path / "state").mkdir()
    os.chown(tmp_path / "state", *service)
    assert run("--server", SERVER, "--claim", CLAIM, "--name", "watch-7")[0] == 0
    made = [tmp_path / "pi.toml", tmp_path / "state" / "person"]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {service}
