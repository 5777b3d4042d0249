"""A sweep: its cells, what is skipped, its tables, and what is wrong in a file."""

import csv
import json
import re
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from schemas.base import ConfigError
from simulations.report.files import RunError
from simulations.sweep import run_sweep
from simulations.sweep_cells import cell, load_sweep

SWEEP = """
name = "grid"
base = "tiny.toml"
[[grids]]
label_fractions = [0.0, 0.2]
seeds = [0, 1]
[[grids]]
label_fractions = [0.2, 0.4]
only = ["tuned"]
[[methods]]
label = "as it is"
strategy = "source"
[[methods]]
label = "tuned"
strategy = "finetune"
set = ["strategies.finetune.head_steps=2"]
"""


@pytest.fixture
def sweep_file(simulation_file: Path) -> Path:
    path = simulation_file.with_name("sweep.toml")
    path.write_text(SWEEP)
    return path


def cell_file(loaded, out: Path, label: str, fraction: float, seed: int) -> Path:
    (method,) = (method for method in loaded.sweep.methods if method.label == label)
    return out / "cells" / f"{cell(loaded, method, fraction, seed).key}.json"


def rows(folder: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    with (folder / "table.csv").open() as file:
        return {(r["method"], r["label_fraction"], r["seed"]): r for r in csv.DictReader(file)}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('strategy = "finetune"', 'strategy = "finetunee"', "strategy = 'finetunee': no such"),
        ("head_steps=2", "head_stops=2", "strategies.finetune.head_stops = 2"),
    ],
)
def test_what_a_method_sets_is_named_as_the_methods(sweep_file, old, new, words):
    sweep_file.write_text(SWEEP.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        load_sweep(sweep_file)
    assert str(caught.value).startswith(f"{sweep_file}: method 'tuned' on ")
    assert words in str(caught.value)


def test_a_seed_that_no_cell_has_is_refused(sweep_file, quiet, tmp_path):
    with pytest.raises(ConfigError, match="--seed: 7: no cell of"):
        run_sweep(load_sweep(sweep_file), tmp_path / "out", quiet, seeds=[1, 7])
    assert not (tmp_path / "out").exists()


def test_a_sweep_runs_each_cell_once_and_skips_what_is_done(sweep_file, quiet, tmp_path):
    out = tmp_path / "out"
    loaded = load_sweep(sweep_file)
    table = run_sweep(loaded, out, quiet, seeds=[1]).read_text()
    assert set(rows(out)) == {
        ("as it is", "0.0", "1"),
        ("as it is", "0.2", "1"),
        ("tuned", "0.2", "1"),
    }
    tuned = cell_file(loaded, out, "tuned", 0.2, 1)
    assert tuned.name.startswith("tuned.f0.2.s1-")
    kept = tuned.stat().st_mtime_ns
    table = run_sweep(loaded, out, quiet).read_text()
    assert tuned.stat().st_mtime_ns == kept
    assert len(rows(out)) == 7  # needing labels, "tuned" has no cell at f = 0
    assert "| as it is |" in table
    assert "no labels" in table
    assert list(out.glob(".windows*")) == []


def test_the_command_counts_its_cells_and_says_where_the_tables_are(sim, sweep_file, tmp_path):
    out = tmp_path / "sw"
    code, said, lines = sim("sweep", sweep_file, "--out", out, "--seed", "1")
    assert (code, said) == (0, (out / "table.md").read_text() + "\n")
    assert [line.partition("]")[0] for line in lines if line[0] == "["] == ["[1/3", "[2/3", "[3/3"]
    assert lines[-1] == f"tables: {out / 'table.md'}, {out / 'table.csv'}"
    code, said, _ = sim("list", out)
    assert (code, said) == (0, f"no runs here: a sweep's folder; its table: {out / 'table.md'}\n")


def test_figures_by_person_are_kept_of_every_cell(sweep_file, quiet, tmp_path):
    out, loaded = tmp_path / "out", load_sweep(sweep_file)
    run_sweep(loaded, out, quiet, seeds=[1])
    persons = pq.read_table(out / "persons.parquet").to_pylist()
    assert len(persons) == 3 * 4  # of six persons two are the sources
    mine = [
        r for r in persons if (r["method"], r["label_fraction"], r["seed"]) == ("tuned", 0.2, 1)
    ]
    scores = [r["macro_f1"] for r in mine if not r["unseen"]]
    score = float(rows(out)["tuned", "0.2", "1"]["macro_f1"])
    assert sum(scores) / len(scores) == pytest.approx(score, abs=1e-4)
    assert {r["strategy"] for r in mine} == {"finetune"}
    older = cell_file(loaded, out, "tuned", 0.2, 1)
    older.write_text(
        json.dumps({k: v for k, v in json.loads(older.read_text()).items() if k[0] != "p"})
    )
    run_sweep(loaded, out, quiet, seeds=[1])  # of a release before persons were kept
    assert len(pq.read_table(out / "persons.parquet")) == 2 * 4
    assert len(rows(out)) == 3


def test_what_is_set_for_all_cells_yields_to_a_method(sweep_file):
    text = SWEEP.replace(
        "[[grids]]", 'set = ["source.steps=3", "strategies.finetune.head_steps=9"]\n[[grids]]', 1
    )
    sweep_file.write_text(text)
    loaded = load_sweep(sweep_file)
    plain, tuned = (cell(loaded, method, 0.2, 0).loaded.config for method in loaded.sweep.methods)
    assert (plain.source.steps, tuned.source.steps) == (3, 3)
    assert plain.strategies["finetune"]["head_steps"] == 9
    assert tuned.strategies["finetune"]["head_steps"] == 2
    sweep_file.write_text(text.replace("source.steps=3", "source.stops=3"))
    with pytest.raises(ConfigError, match=r"source\.stops"):
        load_sweep(sweep_file)


def test_a_cell_is_the_run_that_flwr_sim_run_would_do(sweep_file, quiet, tmp_path):
    from simulations.config import load
    from simulations.report.folder import RunFolder
    from simulations.run import run

    out = tmp_path / "out"
    run_sweep(load_sweep(sweep_file), out, quiet, seeds=[1])
    sets = ["strategy=finetune", "baselines=[]", "seed=1", "strategies.finetune.head_steps=2"]
    loaded = load(sweep_file.with_name("tiny.toml"), sets)
    single = run(loaded, RunFolder.create("one", tmp_path / "one"), quiet).summary
    found = rows(out)["tuned", "0.2", "1"]
    assert float(found["macro_f1"]) == pytest.approx(single.macro_f1.mean, abs=1e-4)


def test_a_changed_method_is_run_again(sweep_file, quiet, tmp_path):
    out = tmp_path / "out"
    loaded = load_sweep(sweep_file)
    run_sweep(loaded, out, quiet, seeds=[1])
    tuned = cell_file(loaded, out, "tuned", 0.2, 1)
    before = tuned.read_text()
    sweep_file.write_text(SWEEP.replace("head_steps=2", "head_steps=3"))
    run_sweep(load_sweep(sweep_file), out, quiet, seeds=[1])
    after = tuned.read_text()
    assert json.loads(before)["identity"] != json.loads(after)["identity"]


def test_a_damaged_cell_is_named(sweep_file, quiet, tmp_path):
    out = tmp_path / "out"
    loaded = load_sweep(sweep_file)
    (out / "cells").mkdir(parents=True)
    cell_file(loaded, out, "tuned", 0.2, 1).write_text("{")
    with pytest.raises(RunError, match=r"tuned\.f0\.2\.s1-.*\.json: not a readable cell"):
        run_sweep(loaded, out, quiet, seeds=[1])


@pytest.mark.parametrize("labels", [("Базовый", "Адаптация"), ("a b", "a-b"), ("A", "a")])
def test_labels_that_look_alike_in_safe_letters_are_cells_of_their_own(
    sweep_file, quiet, tmp_path, labels
):
    text = SWEEP.replace("as it is", labels[0]).replace("tuned", labels[1])
    sweep_file.write_text(text, encoding="utf-8")
    out = tmp_path / "out"
    run_sweep(load_sweep(sweep_file), out, quiet, seeds=[1])
    assert {method for method, *_ in rows(out)} == set(labels)
    assert len(list((out / "cells").iterdir())) == 3


def test_fractions_that_round_alike_are_cells_of_their_own(sweep_file):
    loaded = load_sweep(sweep_file)
    keys = {cell(loaded, loaded.sweep.methods[1], f, 0).key for f in (0.1234567, 0.1234568)}
    assert len(keys) == 2


def test_cells_are_run_again_where_the_data_changed_and_only_then(
    sweep_file, recordings_file, arrays, quiet, tmp_path
):
    own = tmp_path / "own.npz"
    own.write_bytes(recordings_file.read_bytes())
    base = sweep_file.with_name("tiny.toml")
    base.write_text(base.read_text().replace(str(recordings_file), str(own)))
    loaded, out = load_sweep(sweep_file), tmp_path / "out"
    tuned = cell_file(loaded, out, "tuned", 0.2, 1)

    def again() -> tuple[int, str]:
        run_sweep(loaded, out, quiet, seeds=[1])
        return tuned.stat().st_mtime_ns, rows(out)["tuned", "0.2", "1"]["macro_f1"]

    first = again()
    own.touch()
    assert again() == first
    np.savez(own, **arrays | {"y": 1 - np.minimum(arrays["y"], 1)})
    second = again()
    assert second[0] != first[0]
    assert second[1] != first[1]


def test_cells_can_be_run_anew_by_their_method_s_label(sweep_file, quiet, tmp_path):
    out, loaded = tmp_path / "out", load_sweep(sweep_file)
    run_sweep(loaded, out, quiet, seeds=[1])
    left = (out / "checkpoint" / cell_file(loaded, out, "tuned", 0.2, 1).stem) / "x"
    left.parent.mkdir()
    left.touch()
    files = [cell_file(loaded, out, label, 0.2, 1) for label in ("tuned", "as it is")]
    before = [file.stat().st_mtime_ns for file in files]
    run_sweep(loaded, out, quiet, seeds=[1], again=["tuned"])
    after = [file.stat().st_mtime_ns for file in files]
    assert [new == old for old, new in zip(before, after, strict=True)] == [False, True]
    assert not left.exists()
    with pytest.raises(ConfigError, match=r"--again: 'tunde': no method of .* 'as it is', 'tuned'"):
        run_sweep(loaded, out, quiet, again=["tunde"])


OWN = """
from server.strategies.local import SourceModel
from simulations.data.npz import NpzSource
class Own(SourceModel):
    pass
class Waves(NpzSource):
    pass
"""


def test_a_cell_of_one_s_own_code_is_another_once_that_is_edited(sweep_file, tmp_path, monkeypatch):
    """A strategy's as well as a data source's, which may have no file to tell it by."""
    info = tmp_path / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    points = "[flwr_edge.strategy]\nown = own_strategy:Own\n"
    (info / "entry_points.txt").write_text(
        points + "[flwr_edge.data_source]\nwaves = own_data:Waves\n"
    )
    for name in ("own_strategy", "own_data"):
        (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    base = sweep_file.with_name("tiny.toml")
    base.write_text(base.read_text().replace('kind = "npz"', 'kind = "waves"'))
    text = SWEEP.replace('"tuned"', '"own"').replace('strategy = "finetune"', 'strategy = "own"')
    sweep_file.write_text(re.sub("set = .*", "", text))

    def identities():
        loaded = load_sweep(sweep_file)
        return [cell(loaded, method, 0.2, 0).identity() for method in loaded.sweep.methods]

    ours, own = identities()
    assert identities() == [ours, own]
    (tmp_path / "own_strategy.py").write_text(OWN + "STEPS = 3\n")
    assert identities()[0] == ours
    assert (changed := identities()[1]) != own
    (tmp_path / "own_data.py").write_text(OWN + "STEPS = 3\n")
    assert identities()[0] != ours
    assert identities()[1] not in {own, changed}
    for name in ("own_strategy", "own_data"):
        sys.modules.pop(name)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('label = "as it is"', 'label = "tuned"', "same label"),
        ('only = ["tuned"]', 'only = ["nobody"]', "no method is labelled nobody"),
        ("seeds = [0, 1]", "seeds = [-1]", "grids.0.seeds.0 = -1"),
        ("seeds = [0, 1]", "seeds = [true]", "grids.0.seeds.0 = True"),
        ("[0.0, 0.2]", "[0.0, 2.0]", "label_fractions.1 = 2.0"),
        ("head_steps=2", "head_step=2", "head_step"),
        ('strategy = "finetune"', 'strategy = "magic"', "no such strategy"),
        ('base = "tiny.toml"', 'base = "absent.toml"', "absent.toml: no such file"),
        ('name = "grid"', 'name = "grid"\nmore = 1', "more"),
        (
            "seeds =",
            "seed =",
            "seed = [0, 1]: unknown key; allowed here: label_fractions, only, seeds",
        ),
    ],
)
def test_what_is_wrong_in_a_sweep_file_is_said_before_anything_runs(sweep_file, old, new, words):
    sweep_file.write_text(SWEEP.replace(old, new))
    with pytest.raises(ConfigError, match=re.escape(words)):
        load_sweep(sweep_file)


SHIPPED = Path(__file__).parents[2] / "simulations"
SWEEPS = sorted(p.stem for p in SHIPPED.glob("*.toml") if "[[grids]]" in p.read_text())


@pytest.mark.parametrize("name", SWEEPS)
def test_the_shipped_sweeps_are_right(name):
    assert load_sweep(SHIPPED / f"{name}.toml").sweep.name == name


def test_sweeps_are_shipped():
    assert {"drift-recipe", "personal-start", "wisdm-sweep"} <= set(SWEEPS)
