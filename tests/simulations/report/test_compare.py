import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from simulations.report import (
    RunError,
    RunFolder,
    compare_rows,
    data_differences,
    list_rows,
    load_runs,
    method_table,
    show_comparison,
    show_list,
)
from simulations.report.lock import held


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


def test_a_run_that_a_process_is_at_is_running(runs: Path) -> None:
    with held(runs / "half"):
        assert {row["run"]: row["state"] for row in list_rows(runs)}["half"] == "running"
    assert {row["run"]: row["state"] for row in list_rows(runs)}["half"] == "interrupted"


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
    show_list(list_rows(runs), console, runs)
    show_list([], console, runs)
    console.print(method_table(small.summary))
    text = console.export_text()
    for part in ("source-adabn", "tenth", "interrupted", "no runs here", "never"):
        assert part in text
    assert f"{small.summary.macro_f1.mean:.3f}" in text


def test_80_columns_break_no_name_and_hide_no_figure(small: Any) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    main = small.summary.model_copy(update={"strategy": "fedavg-finetune"})
    console.print(method_table(main))
    lines = console.export_text().splitlines()
    (row,) = [line for line in lines if line.startswith("fedavg-finetune ")]
    assert len(row.split()) == 10  # eight cells, two of them with a unit
    assert lines[0].split() == ["worst", "never", "bytes", "bytes", "updates", "left"]


def at_80(show: Callable[[Console], None]) -> list[str]:
    """What stands on a terminal of 80 columns, line by line."""
    console = Console(width=80, record=True, file=io.StringIO())
    show(console)
    return console.export_text().splitlines()


@pytest.fixture
def long_runs(runs: Path, small: Any) -> Path:
    """Runs named as flwr-sim names them, of a strategy whose name is long."""
    named = {"strategy": "functional-memory"}
    summary = small.summary.model_copy(update=named)
    config = small.config.model_copy(update=named)
    for name in ("wearables-20261130-223500", "wearables-20261130-223512"):
        RunFolder.create("x", runs / name).write_config(config)
        (runs / name / "summary.json").write_text(summary.model_dump_json())
    return runs


def test_80_columns_list_runs_a_line_each(long_runs: Path) -> None:
    rows = list_rows(long_runs)
    lines = at_80(lambda console: show_list(rows, console, Path()))
    assert all(len(line) <= 80 for line in lines[: len(rows) + 1])
    for row in rows:
        (line,) = [one for one in lines[1 : len(rows) + 1] if one.startswith(f"{row['run']} ")]
        assert row["strategy"] in line
        assert f"{row['started'][:10]} {row['started'][11:16]}" in line
        assert row["state"] == "finished" or row["state"] in line
    assert any(line.startswith("odd: broken: ") and line.endswith("1)") for line in lines)


def test_a_date_is_to_the_minute_where_there_is_room(runs: Path) -> None:
    lines = at_80(lambda console: show_list(list_rows(runs), console, runs))
    (line,) = [line for line in lines if line.startswith("half ")]
    assert re.search(r" 20\d\d-\d\d-\d\d \d\d:\d\d  semipfl ", line)
    assert "+" in str(list_rows(runs)[0]["started"]), "JSON tells the time zone"


def test_80_columns_compare_runs_under_their_names(long_runs: Path) -> None:
    names = ["wearables-20261130-223500", "wearables-20261130-223512"]
    rows = compare_rows(load_runs([long_runs / name for name in names]))
    lines = at_80(lambda console: show_comparison(rows, console))
    assert [line for line in lines if line.startswith("wearables")] == [
        f"{name}, labels 0.05, seed 3" for name in names
    ]
    first, second = [line for line in lines if line.startswith("functional-memory ")]
    assert first == second
    assert len(first.split()) == 8  # six cells, two of them with a unit
    assert "macro-F1" in "".join(lines)


def test_a_baseline_that_failed_has_a_row_of_dashes(small: Any) -> None:
    console = printed()
    console.print(method_table(small.summary.model_copy(update={"failed": ["fedadam"]})))
    (row,) = [line for line in console.export_text().splitlines() if "fedadam" in line]
    assert row.split() == ["fedadam", *"–––––––"]


def test_what_does_not_train_in_rounds_has_no_speed(small: Any) -> None:
    console = printed()
    show_comparison(compare_rows([("one", small.summary)]), console)
    console.print(method_table(small.summary))
    rows = [line for line in console.export_text().splitlines() if "source-adabn" in line]
    assert [row.split()[-3:] for row in rows] == [["–", "0.05", "3"], ["B", "–", "0"]]


def test_names_are_no_markup(runs: Path) -> None:
    (runs / "done").rename(runs / "[red]done")
    console = printed()
    show_comparison(compare_rows(load_runs([runs / "[red]done"])), console)
    assert "[red]done" in console.export_text()


@pytest.fixture
def failed(small: Any) -> Any:
    """A summary whose baselines fedadam and ditto came to nothing."""
    notes = [
        *small.summary.notes,
        "strategy 'fedadam' returned weights int64[3]",
        "ditto: the last 5 rounds had fewer replies than 2",
        "fedadam: no person was tested; its row has no figures.",
        "ditto: no person was tested; its row has no figures.",
    ]
    return small.summary.model_copy(
        update={"failed": ["fedadam", "ditto", "pefll"], "notes": notes}
    )


def test_a_baseline_that_failed_is_compared_with_dashes_and_the_reason(failed: Any) -> None:
    rows = compare_rows([("one", failed), ("two", failed)])
    assert len(rows) == 14
    by_name = {str(row["strategy"]): row for row in rows[:7]}
    row = by_name["fedadam"]
    assert row.keys() == rows[0].keys()
    assert (row["run"], row["main"], row["macro_f1"], row["bytes_up"]) == ("one", False, None, None)
    assert (row["seed"], row["label_fraction"], row["rounds"]) == (3, 0.05, None)
    assert row["bytes_graphs"] is None
    assert row["problem"] == "strategy 'fedadam' returned weights int64[3]"
    assert by_name["ditto"]["problem"] == "the last 5 rounds had fewer replies than 2"
    assert by_name["pefll"]["problem"] == "the run does not say why"
    assert by_name["fedavg"]["problem"] is None
    assert json.loads(json.dumps(rows)) == rows
    console = printed()
    show_comparison(rows, console)
    lines = console.export_text().splitlines()
    (dashes, _) = [line for line in lines if line.strip().startswith("ditto")]
    assert dashes.split() == ["ditto", *"––––––", "0.05", "3"]
    assert "two: no result of ditto: the last 5 rounds had fewer replies than 2" in lines


def test_the_list_names_baselines_that_failed(runs: Path, failed: Any) -> None:
    (runs / "done" / "summary.json").write_text(failed.model_dump_json())
    rows = {row["run"]: row for row in list_rows(runs)}
    assert rows["done"]["state"] == "finished"
    assert rows["done"]["failed"] == ["fedadam", "ditto", "pefll"]
    assert rows["half"]["failed"] == []
    console = printed()
    show_list(list_rows(runs), console, runs)
    text = " ".join(console.export_text().split())
    assert "finished; no result of fedadam, ditto, pefll" in text


def test_runs_in_folders_of_the_same_name_are_told_apart(runs: Path) -> None:
    for name in ("x", "y"):
        shutil.copytree(runs / "done", runs / name / "run")
    named = [name for name, _ in load_runs([runs / "x" / "run", runs / "y" / "run", runs / "done"])]
    assert named == [str(runs / "x" / "run"), str(runs / "y" / "run"), "done"]


def test_a_file_is_no_folder_and_a_run_s_own_folder_is_listed(runs: Path) -> None:
    file = runs / "done" / "summary.json"
    with pytest.raises(RunError, match=r"summary\.json: is a file; runs are kept in"):
        list_rows(file)
    with pytest.raises(RunError, match=r"summary\.json: is a file; name a run's folder"):
        load_runs([file])
    assert [row["run"] for row in list_rows(runs / "done")] == ["done"]


def test_a_sweep_s_folder_is_no_run_s(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    with pytest.raises(RunError, match=r"holds no config\.toml; it is a sweep's"):
        load_runs([tmp_path])


def test_what_differs_in_runs_data_is_said(runs: Path, small: Any) -> None:
    data = small.config.data
    update = {"label_fraction": 0.5, "train_fraction": 0.6, "path": "b.npz"}
    other = small.config.model_copy(update={"data": data.model_copy(update=update)})
    RunFolder.create("x", runs / "other").write_config(other)
    paths = [runs / "done", runs / "other", runs / "odd"]
    (runs / "odd" / "config.toml").write_text("name = ")  # its figures may be good
    said = data_differences(paths)
    assert said == [
        f"not on the same data: data.path is None in {paths[0]}, 'b.npz' in {paths[1]}",
        f"not on the same data: data.train_fraction is 0.7 in {paths[0]}, 0.6 in {paths[1]}",
    ]
    assert data_differences([paths[0], paths[0]]) == data_differences([]) == []
