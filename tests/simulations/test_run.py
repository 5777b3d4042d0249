"""Whole runs on real workers: faults, resume, determinism, full disks, the folder."""

import json
import os
import re
import resource
from pathlib import Path

import numpy as np
import pytest

from server.checkpoint import CheckpointError
from server.rounds import progress_of
from simulations import run as runs
from simulations.cli import guarded
from simulations.config import load
from simulations.report import files
from simulations.report.files import RunError
from simulations.report.folder import RunFolder
from simulations.report.lock import LOCK, held
from simulations.report.metrics import macro_f1
from simulations.run import StrategyRun, identity_of, resumable, workers_of
from simulations.world import open_world


class Stopped(BaseException):
    """A process that ends here."""


def result(outcome):
    """All of an outcome that must not depend on when, where and how often it was interrupted."""
    fields = progress_of(outcome)
    for clock in ("wall_seconds", "device_seconds", "evaluation_seconds"):
        del fields[clock]
    for record in fields["rounds"]:
        del record["seconds"]
    return fields


def scores(outcome):
    return {name: macro_f1(counts) for name, counts in outcome.confusion.items()}


@pytest.fixture
def go(quiet, tmp_path):
    def run(stage, name, folder="a", loaded=None, progress=quiet):
        one = StrategyRun(name, loaded or stage.loaded, stage.world, tmp_path / folder, progress)
        return one.run(stage.grid)

    return run


def stop_in_round(number, monkeypatch, quiet):
    """End before the round's checkpoint is written."""
    told = quiet.round

    def round_(record):
        told(record)
        if record.round == number:
            raise Stopped

    monkeypatch.setattr(quiet, "round", round_)


def stop_after_checkpoint(number, monkeypatch):
    save = StrategyRun._save

    def save_and_stop(self, checkpoint):
        save(self, checkpoint)
        if checkpoint.round == number:
            raise Stopped

    monkeypatch.setattr(StrategyRun, "_save", save_and_stop)


ROUNDS = "rounds=5"
STOPS = {1: "round", 2: "checkpoint", 4: "round", 5: "checkpoint"}


def _study(name):
    return pytest.param(name, marks=pytest.mark.study)


@pytest.mark.parametrize(
    "name",
    [
        "fedavg",
        "fedper",
        "ditto",
        "semipfl",
        *map(_study, ("fedprox", "fedbn", "fedrep", "pfedhn")),
    ],
)
def test_an_interrupted_run_comes_to_the_same_to_the_last_digit(
    stage, go, quiet, monkeypatch, name
):
    on = stage(ROUNDS)
    brief = ["strategies.semipfl.reconstruction_steps=5"] if name == "semipfl" else []
    loaded = load(on.loaded.path, [ROUNDS, f"strategy='{name}'", "baselines=[]", *brief])
    whole = go(on, name, "whole", loaded)
    for number, where in STOPS.items():
        with monkeypatch.context() as patch:
            if where == "round":
                stop_in_round(number, patch, quiet)
            else:
                stop_after_checkpoint(number, patch)
            with pytest.raises(Stopped):
                go(on, name, "broken", loaded)
    broken = go(on, name, "broken", loaded)
    assert result(broken) == result(whole)
    assert [record.round for record in broken.rounds] == [1, 2, 3, 4, 5]
    assert whole.client_updates == 10


def test_a_checkpoint_holds_what_devices_keep(stage, go, tmp_path, monkeypatch):
    """Error feedback and Ditto's own models: without them the resumed run is another one."""
    on = stage(ROUNDS)
    loaded = load(on.loaded.path, [ROUNDS, "strategy='ditto'", "baselines=[]"])
    whole = go(on, "ditto", "whole", loaded)
    with monkeypatch.context() as patch:
        stop_after_checkpoint(3, patch)
        with pytest.raises(Stopped):
            go(on, "ditto", "broken", loaded)
    forget = runs.Checkpoint.read

    def without_devices(path, identity):
        checkpoint = forget(path, identity)
        assert checkpoint.devices
        checkpoint.devices = {}
        return checkpoint

    monkeypatch.setattr(runs.Checkpoint, "read", without_devices)
    assert result(go(on, "ditto", "broken", loaded)) != result(whole)


def test_a_finished_strategy_is_not_run_again(stage, go):
    on = stage()
    first = go(on, "fedavg")
    again = go(on._replace(grid=None), "fedavg")
    assert result(again) == result(first)


def test_strategies_of_a_run_do_not_see_what_others_left_on_the_devices(stage, go):
    on = stage()
    alone = go(on, "ditto", "alone")
    go(on, "fedper", "between", load(on.loaded.path, ["strategy='fedper'"]))
    assert result(go(on, "ditto", "after")) == result(alone)


def test_one_and_two_workers_give_the_same_and_another_seed_does_not(stage, go):
    two, one = stage(), stage(workers=1)
    for name in ("fedavg", "ditto", "pfedhn"):
        a, b = go(two, name, "two"), go(one, name, "one")
        assert scores(a) == scores(b)
        assert result(a) == result(b)
    other = stage("seed=1")
    assert scores(go(other, "fedavg", "other")) != scores(go(two, "fedavg", "two"))


def test_what_is_trained_is_learned(stage, go):
    """The classes are easy: a run that ignores its labels, or its windows, would not get there."""
    on = stage("cohort.size=3", "rounds=15", "data.label_fraction=0.5")
    overrides = ["cohort.size=3", "rounds=15", "data.label_fraction=0.5"]
    loaded = load(on.loaded.path, [*overrides, "strategies.fedavg.learning_rate=0.02"])
    assert np.mean(list(scores(go(on, "fedavg", loaded=loaded)).values())) > 0.6


@pytest.fixture
def clients(simulation_file, tmp_path):
    """Node ids and names of the clients, in order."""

    def of(*overrides):
        loaded = load(simulation_file, overrides)
        with open_world(loaded, tmp_path / "look", lambda _: None) as world:
            return dict(sorted(world.persons.items()))

    return of


def test_who_raises_hangs_dies_or_returns_nan_is_left_out_counted_and_named(
    simulation_file, clients, quiet, tmp_path, monkeypatch
):
    overrides = ["rounds=2", "baselines=[]", "cohort.timeout_seconds=4"]
    overrides += ["data.source_persons=1", "data.unseen_persons=0", "cohort.size=5"]
    nodes = clients(*overrides)
    (raises, hangs, nan, exits, _), names = nodes, list(nodes.values())
    faults = {raises: "raise", hangs: "hang", nan: "nan", exits: "exit"}
    monkeypatch.setenv("FAULTY", json.dumps(faults))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(runs, "APP", "faulty_clients:app")
    folder = RunFolder.create("tiny", tmp_path / "out")
    summary = runs.run(load(simulation_file, overrides), folder, quiet).summary

    assert summary == RunFolder.open(tmp_path / "out").summary()
    failures = summary.failures
    assert sorted(failures) == sorted(names[:4])
    broken = "ValueError: the sensor fell off | and broke"
    assert failures[names[0]] == [f"round 1: {broken}", f"round 2: {broken}"]
    assert failures[names[1]] == ["round 1: timed out after 4 s"]
    assert [re.sub("change.*", "", line) for line in failures[names[2]]] == [
        "round 1: refused: the ",
        "round 2: refused: the ",
    ]
    assert "NaN" in failures[names[2]][0]
    assert failures[names[3]] == ["round 1: worker died with exit code 7"]
    assert summary.client_updates == 1 + 3
    assert sorted(summary.persons) == sorted(names)
    assert summary.rounds == 2
    told = quiet.console.file.getvalue()
    assert told.count("left out of round") == 4


def test_a_run_folder_has_all_that_was_promised(simulation_file, quiet, tmp_path):
    loaded = load(simulation_file, ["baselines=['adabn']"])
    finished = runs.run(loaded, RunFolder.create("tiny", tmp_path / "out"), quiet)
    out, summary = tmp_path / "out", finished.summary
    there = {path.name for path in out.iterdir()}
    assert {"config.toml", "summary.json", "report.html", "plots", "checkpoint"} <= there
    assert {"rounds.parquet", "persons.parquet"} <= there
    assert not [path for path in out.rglob("*") if "part" in path.suffix or path.name == ".windows"]
    assert list((out / "plots").glob("*.png"))
    assert (summary.strategy, [b.strategy for b in summary.baselines]) == ("fedavg", ["adabn"])
    assert (summary.client_updates, summary.rounds) == (6, 3)
    assert len(summary.persons) == 3
    assert len(summary.unseen_persons) == 1
    assert summary.macro_f1.unseen is not None
    assert 0 < summary.bytes_per_participation.up < summary.bytes_per_participation.down
    assert summary.baselines[0].bytes_per_participation.up == 0

    # A run that ended can be told again, from its folder too: its start stays what it was.
    started = RunFolder.open(out).started
    told = runs.run(load(out / "config.toml"), RunFolder.open(out), quiet).summary
    assert told.macro_f1 == summary.macro_f1
    assert RunFolder.open(out).started == started

    # A baseline may be added to it; nothing is run twice.
    before = (out / "checkpoint" / "fedavg.safetensors").stat().st_mtime_ns
    more = load(simulation_file, ["baselines=['adabn', 'ditto']"])
    again = runs.run(more, RunFolder.open(out), quiet).summary
    assert again.macro_f1 == summary.macro_f1
    assert [b.strategy for b in again.baselines] == ["adabn", "ditto"]
    assert (out / "checkpoint" / "fedavg.safetensors").stat().st_mtime_ns == before
    assert RunFolder.open(out).config().baselines == ("adabn", "ditto")


@pytest.fixture
def interrupted(simulation_file, quiet, tmp_path, monkeypatch):
    """The folder of a run that stopped after its second round."""

    def make(folder=None, *overrides):
        path = folder or tmp_path / "out"
        loaded = load(simulation_file, ["baselines=[]", *overrides])
        with monkeypatch.context() as patch:
            stop_after_checkpoint(2, patch)
            with pytest.raises(Stopped):
                runs.run(loaded, RunFolder.create("tiny", path), quiet)
        return path

    return make


def refusal(capsys, code, command):
    capsys.readouterr()
    assert guarded(command) == code
    said = capsys.readouterr().err
    assert said.startswith("flwr-sim: ")
    assert said.count("\n") == 1, said
    return said


@pytest.fixture
def resume(simulation_file, quiet, tmp_path):
    def go(*overrides):
        loaded = load(simulation_file, ["baselines=[]", *overrides])
        return runs.run(loaded, RunFolder.open(tmp_path / "out"), quiet)

    return go


def content(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_only_the_very_run_is_resumed_and_nothing_of_another_is_touched(
    interrupted, resume, simulation_file, recordings_file, arrays, capsys, tmp_path
):
    recordings = tmp_path / "own.npz"  # other workers read the shared one meanwhile
    recordings.write_bytes(recordings_file.read_bytes())
    text = simulation_file.read_text()
    simulation_file.write_text(text.replace(str(recordings_file), str(recordings)))
    out = interrupted()
    checkpoint = out / "checkpoint" / "fedavg.safetensors"
    whole, before = checkpoint.read_bytes(), content(out)

    for override in ("seed=1", "rounds=9", "strategies.fedavg.learning_rate=0.5"):
        said = refusal(capsys, 1, lambda override=override: resume(override))
        assert "belongs to another configuration" in said
        assert content(out) == before

    # the same file name, other recordings
    original = recordings.read_bytes()
    np.savez(recordings, **(arrays | {"X": arrays["X"] + np.float32(0.01)}))
    assert "other data" in refusal(capsys, 1, resume)
    recordings.write_bytes(original)
    assert content(out) == before

    for damaged in (b"", b"garbage", whole[:-7], whole[: len(whole) // 2]):
        checkpoint.write_bytes(damaged)
        assert str(checkpoint) in refusal(capsys, 1, resume)
    checkpoint.write_bytes(whole)
    assert content(out) == before
    (out / "checkpoint" / ".fedavg.safetensors.77.part").write_bytes(b"a kill -9 left it")
    resume("engine.workers=1")
    assert RunFolder.open(out).finished
    assert not list(out.rglob("*.part"))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"identity": 1}', "\udcff"])
def test_a_damaged_outcome_is_refused_in_a_line(stage, quiet, tmp_path, text):
    on = stage()
    one = StrategyRun("fedavg", on.loaded, on.world, tmp_path, quiet)
    (tmp_path / "fedavg.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(CheckpointError, match="not a readable outcome") as caught:
        one.run(on.grid)
    assert "\n" not in str(caught.value)
    identity = json.dumps(one.identity)
    for outcome in ("[]", "{}", "7", '{"rounds": []}', '{"rounds": [], "confusion": []}'):
        (tmp_path / "fedavg.json").write_text(f'{{"identity": {identity}, "outcome": {outcome}}}')
        with pytest.raises(CheckpointError):
            one.run(on.grid)


def fails_at_the_disk(monkeypatch, name):
    """From the write of a file of this name on, nothing more than 64 bytes fits on the disk."""
    write, full = files._write, []

    def limited(path, data):
        if name in path.name:
            full.append(path)
        if not full:
            return write(path, data)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
        try:
            return write(path, data)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    monkeypatch.setattr(files, "_write", limited)


def test_a_full_disk_at_the_start_leaves_nothing(
    simulation_file, quiet, tmp_path, capsys, monkeypatch
):
    loaded = load(simulation_file, ["baselines=[]"])
    for name in ("config.toml", "fedavg.safetensors"):
        with monkeypatch.context() as patch:
            fails_at_the_disk(patch, name)
            folder = RunFolder.create("tiny", tmp_path / "out")
            said = refusal(capsys, 1, lambda folder=folder: runs.run(loaded, folder, quiet))
        assert f"{name}: cannot be written: File too large" in said
        assert not (tmp_path / "out").exists()


def test_a_folder_that_was_there_stays(simulation_file, quiet, tmp_path, capsys, monkeypatch):
    fails_at_the_disk(monkeypatch, "config.toml")
    own = tmp_path / "own"
    own.mkdir()
    folder = RunFolder.create("tiny", own)
    refusal(capsys, 1, lambda: runs.run(load(simulation_file), folder, quiet))
    assert own.is_dir()
    assert not list(own.iterdir())


def test_a_full_disk_later_keeps_what_was_there_and_the_run_can_go_on(
    interrupted, resume, capsys, monkeypatch
):
    out = interrupted()
    before = content(out)
    for name in ("fedavg.safetensors", "report.html"):
        with monkeypatch.context() as patch:
            fails_at_the_disk(patch, name)
            assert f"{name}: cannot be written" in refusal(capsys, 1, resume)
        assert not list(out.rglob("*.part"))
        if name == "fedavg.safetensors":
            assert content(out) == before
        assert not RunFolder.open(out).finished
    resume()
    assert RunFolder.open(out).finished


def test_no_room_for_the_windows_is_no_fault_of_the_file(
    simulation_file, quiet, tmp_path, capsys, monkeypatch
):
    from client.windows import PersonWindows

    def save(self, folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PersonWindows, "save", save)
    loaded = load(simulation_file)
    folder = RunFolder.create("tiny", tmp_path / "out")
    assert "No space left" in refusal(capsys, 1, lambda: runs.run(loaded, folder, quiet))
    assert not (tmp_path / "out").exists()


def test_workers_that_cannot_start_are_one_line(
    simulation_file, quiet, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(runs, "APP", "no_such_module:app")
    folder = RunFolder.create("tiny", tmp_path / "out")
    loaded = load(simulation_file)
    said = refusal(capsys, 1, lambda: runs.run(loaded, folder, quiet))
    assert "no_such_module" in said
    assert not (tmp_path / "out").exists()


def test_resume_finds_the_newest_interrupted_run_of_that_name(simulation_file, tmp_path):
    loaded, root = load(simulation_file), tmp_path / "runs"
    with pytest.raises(RunError, match="no interrupted run named 'tiny'"):
        resumable(loaded, root)

    def make(folder, name="tiny", age=0, finished=False):
        run = RunFolder.create(name, root / folder)
        run.write_config(loaded.config.model_copy(update={"name": name}))
        stamp = 1_700_000_000 - age
        os.utime(run.path / "config.toml", (stamp, stamp))
        if finished:
            (run.path / "summary.json").write_text("{}")

    make("tiny-1", age=50)
    make("tiny-2", age=40)
    make("tiny-3", age=10, finished=True)
    make("tiny-big-4", name="tiny-big", age=5)
    make("tiny-5", age=1)
    (root / "tiny-5" / "config.toml").write_text("not TOML")
    (root / "tiny-6").mkdir()
    (root / "tiny-7").write_text("a file")
    assert resumable(loaded, root).path == root / "tiny-2"


def test_a_run_that_somebody_is_at_is_left_alone(interrupted, resume, capsys, quiet, monkeypatch):
    """Not even its windows are touched, and the first of the two comes to its end."""
    out = interrupted()
    begin = quiet.begin

    def second(*args):
        monkeypatch.setattr(quiet, "begin", begin)
        before = content(out)
        said = refusal(capsys, 1, resume)
        assert f"{out}: another process (pid {os.getpid()}) is at this run" in said
        assert content(out) == before
        assert (out / ".windows").is_dir()
        begin(*args)

    monkeypatch.setattr(quiet, "begin", second)
    resume()
    assert RunFolder.open(out).finished
    assert not (out / LOCK).exists()


def test_resume_leaves_out_what_another_process_is_at(simulation_file, tmp_path):
    loaded = load(simulation_file)
    for number in (1, 2):
        run = RunFolder.create("tiny", tmp_path / f"tiny-{number}")
        run.write_config(loaded.config)
        os.utime(run.path / "config.toml", (number, number))
    with held(tmp_path / "tiny-2"):
        assert resumable(loaded, tmp_path).path.name == "tiny-1"
        with held(tmp_path / "tiny-1"), pytest.raises(RunError, match="is at this run"):
            resumable(loaded, tmp_path)
    assert resumable(loaded, tmp_path).path.name == "tiny-2"


def test_what_an_identity_depends_on(simulation_file):
    def identity(*overrides, name="fedavg", data=""):
        return identity_of(load(simulation_file, overrides), name, data)

    same = identity()
    assert identity("engine.workers=7", "name='other'", "baselines=['fedbn']") == same
    assert identity("strategies.ditto.pull=0.5") == same
    assert identity("strategies.fedavg.steps=11") != same
    assert identity("seed=1") != same
    assert identity("rounds=4") != same
    assert identity("data.label_fraction=0.3") != same
    assert identity("data.options.hz=3") != same
    assert identity("data.options={}") == same
    assert identity(name="ditto") != same
    assert identity(data="x") != same
    elsewhere = "data.path='elsewhere.npz'"
    assert identity(elsewhere, data="x") == identity(data="x")
    assert identity(elsewhere) != same


def test_workers_are_as_told_or_one_a_core(simulation_file, monkeypatch):
    assert workers_of(load(simulation_file).config) == 2
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5})
    config = load(simulation_file).config
    free = config.model_copy(update={"engine": config.engine.model_copy(update={"workers": None})})
    assert workers_of(free) == 3
