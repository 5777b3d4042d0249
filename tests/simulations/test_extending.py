"""The examples of EXTENDING.md, installed as the page says and run."""

import json
import re
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from simulations.config import load
from simulations.engine.local_grid import LocalGrid
from simulations.run import APP, prepare
from simulations.world import open_world

PAGE = (Path(__file__).parents[2] / "simulations" / "EXTENDING.md").read_text(encoding="utf-8")
SMALL = ("source.steps=5", "model.width=4", "model.latent=4", "engine.workers=2")


@pytest.fixture
def mine(tmp_path, monkeypatch, edge_cache):
    """The page's files, and what ``pip install`` would lay down of its pyproject.toml."""
    project, simulation = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for block in re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        name = block.partition("\n")[0].removeprefix("# ")
        (tmp_path / name).write_text(block)
    groups = tomllib.loads(project)["project"]["entry-points"]
    modules = tomllib.loads(project)["tool"]["setuptools"]["py-modules"]
    assert sorted(path.stem for path in tmp_path.glob("*.py")) == sorted(modules)
    lines = []
    for group, points in groups.items():
        lines += [f"[{group}]", *(f"{name} = {place}" for name, place in points.items())]
    info = tmp_path / "mine-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text(simulation)
    yield tmp_path / "mine.toml"
    for module in modules:
        sys.modules.pop(module, None)


def test_strategy_generator_and_data_of_one_s_own_run_beside_ours(mine, sim):
    sets = [part for one in SMALL for part in ("--set", one)]
    code, out, err = sim("run", mine, *sets, "--out", "run", "--format", "json")
    assert code == 0, err
    summary = json.loads(out)
    methods = [summary, *summary["baselines"]]
    assert [one["strategy"] for one in methods] == ["trimmed", "running", "low-rank", "fedavg"]
    assert len(summary["persons"]) == 4
    assert not any(one["failures"] for one in methods)
    assert all(one["client_updates"] == 4 for one in methods)


def test_a_server_app_of_one_s_own_runs_the_loop(mine, capsys):
    import mine_app

    mine.write_text(mine.read_text() + "[source]\nsteps = 5\n[model]\nwidth = 4\nlatent = 4\n")
    prepare()
    loaded = load(mine)
    with (
        open_world(loaded, mine.parent / "unused", lambda _: None) as world,
        LocalGrid(APP, world.nodes, 2, 60) as grid,
    ):
        mine_app.main(grid, SimpleNamespace(run_config={"simulation": str(mine)}))
        named = set(world.persons.values())
    said = capsys.readouterr().out
    assert "RoundRecord(round=1, cohort=4" in said
    assert {line.split()[0] for line in said.splitlines()} >= named
