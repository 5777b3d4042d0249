import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from simulations.report import (
    RunError,
    RunFolder,
    compare_rows,
    list_rows,
    load_runs,
    method_table,
    show_comparison,
    show_list,
)


@pytest.fixture
def runs(tmp_path: Path, written: RunFolder, small: Any) -> Path:
    """A finished run, an interrupted one, a broken one, and a folder that is none."""
    shutil.copytree(written.path, tmp_path / "done")
    RunFolder.create("x", tmp_path / "half").write_config(small.config)
    RunFolder.create("x", tmp_path / "odd").write_config(small.config)
    (tmp_path / "odd" / "summary.json").write_text("{")
    (tmp_path / "notes").mkdir()
    return tmp_path


def printed() -> Console:
    return Console(width=120, record=True, file=io.StringIO())


def test_rows_hold_every_method_of_every_run(runs: Path, small: Any) -> None:
    rows = compare_rows(load_runs([runs / "done", runs / "done"]))
    assert len(rows) == 8
    assert [row["main"] for row in rows[:4]] == [True, False, False, False]
    assert rows[0]["macro_f1"] == small.summary.macro_f1.mean
    assert (rows[2]["strategy"], rows[2]["bytes_up"]) == ("fedavg", 48_000)
    assert (rows[0]["label_fraction"], rows[0]["seed"]) == (0.05, 3)
    assert json.loads(json.dumps(rows)) == rows


def test_only_finished_runs_can_be_compared(runs: Path) -> None:
    with pytest.raises(RunError, match=r"half/summary\.json: not there: the run did not end"):
        load_runs([runs / "done", runs / "half"])


def test_the_list_tells_finished_interrupted_and_broken_runs_apart(runs: Path) -> None:
    rows = {row["run"]: row for row in list_rows(runs)}
    assert {name: row["state"] for name, row in rows.items()} == {
        "done": "finished",
        "half": "interrupted",
        "odd": "broken",
    }
    assert rows["done"]["dataset"] == "seglearn watch"
    assert (rows["half"]["dataset"], rows["half"]["macro_f1"]) == ("watch", None)
    assert "cut short" in str(rows["odd"]["problem"])
    assert json.loads(json.dumps(list(rows.values())))


def test_a_folder_of_runs_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such folder"):
        list_rows(tmp_path / "nowhere")
    assert list_rows(tmp_path) == []


def test_tables_for_the_terminal(runs: Path, small: Any) -> None:
    console = printed()
    show_comparison(compare_rows(load_runs([runs / "done"])), console)
    show_list(list_rows(runs), console)
    show_list([], console)
    console.print(method_table(small.summary))
    text = console.export_text()
    for part in ("source-adabn", "worst tenth", "interrupted", "no runs here", "never seen"):
        assert part in text
    assert f"{small.summary.macro_f1.mean:.3f}" in text


def test_a_baseline_that_failed_has_a_row_of_dashes(small: Any) -> None:
    console = printed()
    console.print(method_table(small.summary.model_copy(update={"failed": ["fedadam"]})))
    (row,) = [line for line in console.export_text().splitlines() if "fedadam" in line]
    assert row.split() == ["fedadam", *"–––––––"]


def test_names_are_no_markup(runs: Path) -> None:
    (runs / "done").rename(runs / "[red]done")
    console = printed()
    show_comparison(compare_rows(load_runs([runs / "[red]done"])), console)
    assert "[red]done" in console.export_text()
