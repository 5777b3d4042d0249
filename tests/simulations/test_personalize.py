"""One exchange with a person of a finished run."""

import json
from io import StringIO

import pytest
from rich.console import Console


@pytest.fixture(scope="module")
def memory_run(recordings_file, edge_cache, tmp_path_factory):
    from simulations.config import load
    from simulations.progress import Progress
    from simulations.report.folder import RunFolder
    from simulations.run import run
    from tests.simulations.conftest import FILE

    folder = tmp_path_factory.mktemp("memory")
    path = folder / "tiny.toml"
    path.write_text(FILE.format(path=recordings_file))
    table = "strategies.functional-memory"
    overrides = (
        "strategy='functional-memory'",
        "baselines=['finetune', 'personal']",
        "strategies.personal.memory='matched'",
        "strategies.personal.memory_steps=3",
        "strategies.personal.memory_guard=0.0",
        "strategies.personal.steps=1",
        "rounds=2",
        f"{table}.memory_steps=3",
        f"{table}.memory_persons=2",
        f"{table}.width=8",
        f"{table}.blocks=1",
        f"{table}.rank=2",
        f"{table}.steps=1",
    )
    with Progress(Console(file=StringIO(), width=200)) as progress:
        loaded = load(path, overrides)
        return run(loaded, RunFolder.create("tiny", folder / "run"), progress).folder.path


def test_the_unseen_person_is_shown_before_and_after(memory_run, sim):
    summary = json.loads((memory_run / "summary.json").read_text())
    (unseen,) = summary["unseen_persons"]
    code, out, _ = sim("personalize", memory_run, "--person", unseen, "--format", "json")
    said = json.loads(out)
    assert (code, said["unseen"], said["person"]) == (0, True, unseen)
    assert 0 <= said["before"]["accuracy"] <= 1
    assert said["after"]["macro_f1"] == pytest.approx(summary["macro_f1"]["unseen"])
    assert said["bytes_up"] < 32_768
    assert said["bytes_down"] < 32_768


def test_a_client_is_asked_anew(memory_run, sim):
    client = json.loads((memory_run / "summary.json").read_text())["persons"][0]
    code, out, _ = sim("personalize", memory_run, "--person", client)
    assert code == 0
    assert "a client of the run" in out
    assert "bytes of condition up" in out


def test_a_personal_run_goes_on_from_what_was_made(memory_run, sim):
    summary = json.loads((memory_run / "summary.json").read_text())
    (unseen,) = summary["unseen_persons"]
    (scores,) = [one for one in summary["baselines"] if one["strategy"] == "personal"]
    options = ("--strategy", "personal", "--format", "json")
    code, out, _ = sim("personalize", memory_run, "--person", unseen, *options)
    said = json.loads(out)
    assert code == 0
    assert said["after"]["macro_f1"] == pytest.approx(scores["macro_f1"]["unseen"])
    assert said["bytes_up"] > 0


def test_what_cannot_be_is_said(memory_run, finished_run, sim):
    code, _, said = sim("personalize", memory_run, "--person", "nobody")
    assert code == 2
    assert "no person 'nobody'; there are" in said[-1]
    code, _, said = sim("personalize", memory_run, "--person", "x", "--strategy", "finetune")
    assert code == 1
    assert "makes no adapters from conditions; run functional-memory" in said[-1]
    assert "or personal with --set strategies.personal.memory=matched" in said[-1]
