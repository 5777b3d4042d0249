"""``flwr-fleet train`` with real daemons on a real broker."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from client.windows import PersonWindows
from schemas.base import ConfigError
from server import cli
from server.fleet import quarantine
from tests.mosquitto import program
from tests.server.fleet.broker.conftest import placed, wait
from tests.server.fleet.broker.test_attacks import audited

pytestmark = pytest.mark.skipif(program() is None, reason="mosquitto is not installed")
PROGRAM = (sys.executable, "-c", "from server.cli import main; main()")
FILE = """
name = "spring"
rounds = 2
strategy = "fedavg"
devices = { tags = ["pilot"], wait_seconds = 30, least = 2 }
windows = { time = 20, channels = 6, classes = ["sit", "walk"], magnitudes = [[0, 1, 2]] }
model = { width = 4, latent = 4 }
cohort = { size = 10, timeout_seconds = 60 }
strategies.fedavg = { start = "random", steps = 2 }
"""


class Pilot:
    """A fleet, its broker, its devices' daemons, and a training file."""

    def __init__(self, place, root):
        self.place, self.root, self.daemons = place, root, {}
        self.file, self.out = root / "spring.toml", root / "out"
        self.file.write_text(FILE)

    def device(self, name, *, starts=True, own=None, more=""):
        ca, certificate, key = self.place.enrol(name)
        with self.place.keeper.registry.write("operator:tests") as write:
            from server.fleet import devices
            from server.fleet.listing import find

            devices.set_tags(find(write.db, [name])[0], ["pilot"], ())
        folder = self.root / name
        (own or windows(sum(name.encode()))).save(folder / "windows")
        config = self.place.config.broker
        (folder / "pi.toml").write_text(
            f'device = "{name}"\nstate = "state"\n{more}[broker]\nhost = "localhost"\n'
            f'port = {config.port}\n[broker.tls]\nca = "{ca}"\ncertificate = "{certificate}"\n'
            f'key = "{key}"\n[windows]\nfolder = "windows"\n'
        )
        if starts:
            words = [sys.executable, "-m", "client.cli", "run", "--config", folder / "pi.toml"]
            with (folder / "log").open("wb") as log:
                self.daemons[name] = subprocess.Popen(
                    [*words, "--socket", folder / "s"], stderr=log
                )

    def start(self, *words):
        command = [*PROGRAM, "train", self.file, "--out", self.out, *words]
        return subprocess.Popen(
            [*map(str, command)],
            env=os.environ | {"FLWR_FLEET": str(self.place.folder.root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def train(self, *words):
        process = self.start(*words)
        out, said = process.communicate(timeout=120)
        return process.returncode, out, said

    def lines(self):
        path = self.out / "rounds.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def trainings(self):
        """How often each of the audited actions."""
        begun = [said for _, said in audited(self.place, "training.begin")]
        return begun, [said for _, said in audited(self.place, "training.end")]

    def end(self):
        for daemon in self.daemons.values():
            daemon.terminate()
        for daemon in self.daemons.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(5)
            daemon.kill()


def windows(seed):
    """Twelve labelled windows and four to test on, of two classes that are easy to tell apart."""
    rng = np.random.default_rng(seed)
    labels = np.arange(16, dtype=np.int64) % 2
    x = (rng.normal(size=(16, 20, 6)) + 2 * labels[:, None, None]).astype(np.float32)
    return PersonWindows(x[:12], labels[:12], x[12:], labels[12:])


@contextlib.contextmanager
def piloted(made, migrated, root):
    """A pilot's fleet in a folder, without devices yet."""
    (root / "registry.sqlite").write_bytes(migrated.read_bytes())
    with placed(made, root, root / "registry.sqlite") as place:
        place.keeper.renew_services()
        pilot = Pilot(place, root)
        try:
            yield pilot
        finally:
            pilot.end()


@pytest.fixture
def pilot(made, migrated, tmp_path):
    with piloted(made, migrated, tmp_path) as pilot:
        yield pilot


@pytest.fixture
def here(pilot, monkeypatch, capsys):
    """Run a training in this process: to start another takes longer than all that is looked at."""
    monkeypatch.setenv("FLWR_FLEET", str(pilot.place.folder.root))
    before = [(each, signal.getsignal(each)) for each in (signal.SIGINT, signal.SIGTERM)]

    def run(*words):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main(["train", str(pilot.file), "--out", str(pilot.out), *words])
        return (ended.value.code, *capsys.readouterr())

    yield run
    for each, handler in before:
        signal.signal(each, handler)


def test_two_rounds_and_who_is_left_out(pilot, here):
    for name in ("a", "b"):
        pilot.device(name)
    for name in ("lost", "odd"):
        pilot.device(name, starts=False)
    assert pilot.place.revoke("lost") == []
    with pilot.place.keeper.registry.write("operator:tests") as write:
        quarantine.by_hand(write, ["odd"], "", 0)

    code, out, said = here("--dry-run", "--format", "json")
    assert code == 0, said
    assert [(row["device"], row["why"]) for row in json.loads(out)] == [
        ("a", "accepted"),
        ("b", "accepted"),
        ("lost", "revoked"),
        ("odd", "quarantined"),
    ]
    assert not pilot.out.exists()

    code, out, said = pilot.train("--format", "json")
    assert code == 0, said
    summary = json.loads(out)
    assert summary == json.loads((pilot.out / "summary.json").read_text())
    assert summary["left_out"] == {"quarantined": 1, "revoked": 1}
    assert (summary["asked"], summary["answered"], summary["refused"]) == (4, 4, 0)
    assert set(summary["by_device"]) == {"a", "b"}
    assert all(one["macro_f1"] is not None for one in summary["by_device"].values())
    assert [line["round"] for line in pilot.lines()] == [1, 2]
    assert "round 2/2  asked 2  answered 2  refused 0" in said
    begun, ended = pilot.trainings()
    assert begun[0]["left_out"] == summary["left_out"]
    assert [one["how"] for one in ended] == ["finished"]
    assert "it is finished" in here("--resume")[2]
    assert "is not empty" in here()[2]


def test_a_training_that_learned_nothing_is_not_called_finished(pilot, here):
    for name in ("a", "b"):
        pilot.device(name)
    wrong = ("--set", "windows.time=30")  # theirs have 20
    code, _, said = pilot.train("--set", "rounds=2", *wrong)
    assert code == 1, said
    assert "nothing was learned: none of 2 rounds had cohort.min_replies good replies" in said
    assert [one["how"] for one in pilot.trainings()[1]] == ["failed"]


def test_a_training_that_is_killed_or_interrupted_goes_on(pilot, here):
    for name in ("a", "b"):
        pilot.device(name)
    many = ("--set", "rounds=60", "--set", "evaluate_every=100")
    process = pilot.start(*many)
    assert wait(lambda: len(pilot.lines()) >= 2, 60), process.communicate()
    process.kill()
    process.communicate()
    seen = pilot.lines()

    process = pilot.start(*many, "--resume")
    assert wait(lambda: len(pilot.lines()) >= len(seen) + 2, 60), process.communicate()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "go on with --resume" in said
    assert ": dropped (" not in said.partition("interrupted after")[2]
    assert pilot.lines()[: len(seen)] == seen
    assert "another configuration" in here("--resume", "--set", "seed=7")[2]

    pilot.daemons["b"].terminate()
    pilot.daemons["b"].wait(10)
    assert pilot.place.revoke("b") == []
    few = ("--set", "devices.least=1")
    code, out, said = pilot.train(*many, *few, "--resume", "--format", "json")
    assert code == 0, said
    assert json.loads(out)["left_out"] == {"revoked": 1}
    assert [line["round"] for line in pilot.lines()] == list(range(1, 61))
    assert pilot.lines()[-1]["asked"] == 1
    begun, ended = pilot.trainings()
    assert [one["how"] for one in ended] == ["interrupted", "finished"]
    assert [one["after"] > 0 for one in begun] == [False, True, True]


def test_a_run_given_up_for_want_of_replies_goes_on_with_more_patience(pilot, here):
    for name in ("a", "b"):
        pilot.device(name)
    many = ("--set", "rounds=30", "--set", "evaluate_every=100")
    process = pilot.start(
        *many, "--set", "cohort.timeout_seconds=2", "--set=cohort.give_up_after=2"
    )
    assert wait(lambda: len(pilot.lines()) >= 1, 60), process.communicate()
    for daemon in pilot.daemons.values():
        daemon.send_signal(signal.SIGSTOP)
    _, said = process.communicate(timeout=60)
    for daemon in pilot.daemons.values():
        daemon.send_signal(signal.SIGCONT)
    assert process.returncode == 1, said
    assert "fewer than 1 good replies each (cohort.min_replies) within 2 s (cohort.timeout" in said
    seen = len(pilot.lines())
    assert "another configuration" in here(*many, "--resume", "--set", "cohort.size=1")[2]
    code, _, said = pilot.train(*many, "--resume")
    assert code == 0, said
    assert "the server that asked has ended" not in said
    assert [line["round"] for line in pilot.lines()] == list(range(1, 31))
    assert [line["applied"] for line in pilot.lines()[seen - 2 : seen + 1]] == [False, False, True]


def test_who_is_revoked_in_a_round_is_not_waited_for(pilot):
    for name in ("a", "b"):
        pilot.device(name)
    patient = "--set=cohort.timeout_seconds=600"
    process = pilot.start("--set", "rounds=30", "--set", "evaluate_every=100", patient)
    assert wait(lambda: len(pilot.lines()) >= 1, 60), process.communicate()
    pilot.daemons["b"].send_signal(signal.SIGSTOP)
    assert pilot.place.revoke("b") == []
    _, said = process.communicate(timeout=200)
    pilot.daemons["b"].send_signal(signal.SIGCONT)
    assert process.returncode == 0, said
    assert pilot.lines()[-1]["asked"] == 1


def test_what_is_wrong_is_one_clear_line(pilot, here):
    def said(*words, code, how=here):
        found, out, line = how(*words)
        assert (found, out) == (code, ""), line
        assert line.count("\n") == 1, line
        return line

    assert "rounds = 0" in said("--set", "rounds=0", code=2)
    many = ("--set", "rounds=0", "--set", "strategy=fedavgg", "--set", "strategies.fedavg.stepps=1")
    found, _, lines = here(*many)
    assert (found, lines.count("\n")) == (2, 3), lines
    for part in ("rounds = 0", "strategy = 'fedavgg': no such", "strategies.fedavg.stepps = 1"):
        assert part in lines
    assert "strategy = 'fedavgg': no such" in said("--set", "strategy=fedavgg", code=2)
    assert "no device with the tag pilot" in said(code=3)
    pilot.device("a", starts=False)
    code, out, line = here("--dry-run")
    assert (code, "accepted" in out) == (5, True)
    assert "1 would take part; 2 needed (devices.least)" in line
    replies = ("--set", "cohort.min_replies=2", "--set", "devices.least=1")
    never = "1 would take part; 2 have to answer a round (cohort.min_replies)"
    assert never in said(*replies, code=1)
    assert never in here("--dry-run", *replies)[2]
    source = ("--set", "strategies.fedavg.start=source")
    assert "sources.path" in said(*source, code=2)
    code, _, line = here("--dry-run", "--set", "devices.least=1", *source)
    assert (code, "sources.path" in line) == (2, True)
    pilot.out.mkdir()
    (pilot.out / "of another").touch()
    code, _, line = here("--dry-run", "--set", "devices.least=1")
    assert (code, "is not empty" in line) == (1, True)
    shutil.rmtree(pilot.out)
    short = ("--set", "devices.wait_seconds=0.5")
    assert "0 of 1 devices are online after 0.5 s; 2 needed" in said(
        *short, code=1, how=pilot.train
    )
    pilot.place.stop()
    assert "is it running? flwr-fleet doctor looks" in said(*short, code=1, how=pilot.train)
    assert "no training to go on with" in said("--resume", code=1)
    assert not pilot.out.exists()
    assert pilot.trainings() == ([], [])


def test_sources_are_checked(tmp_path):
    from server.fleet.training.file import load
    from server.fleet.training.sources import read_sources

    file = tmp_path / "spring.toml"
    file.write_text(FILE)
    x, y = np.zeros((6, 20, 6)), np.arange(6) % 2

    def read(**arrays):
        np.savez(tmp_path / "s.npz", **arrays)
        return read_sources(load(file, ["sources.path=s.npz"]).training, file)[0]

    good = {"X": x, "y": y, "subject": [1, 1, 2, 2, 2, 2]}
    assert [len(one) for one in read(**good).x] == [2, 4]
    for bad, why in (
        ({"y": y + 1}, "expected 0 to 1"),
        ({"X": x[:, :9]}, "expected (windows, 20, 6)"),
        ({"X": x * np.nan}, "NaN"),
        ({"subject": np.array([{}] * 6)}, "pickle"),
    ):
        with pytest.raises(ConfigError, match=r"sources\.path") as caught:
            read(**(good | bad))
        assert why in str(caught.value)
