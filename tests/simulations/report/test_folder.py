import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from schemas.simulation import Data, Simulation
from schemas.summary import Summary
from simulations.report import RunError, RunFolder
from simulations.report.metrics import macro_f1, total

FILES = {
    *("config.toml", "confusion.npz", "persons.parquet", "report.html", "rounds.parquet"),
    *("summary.json", "plots"),
}


@pytest.fixture
def run(tmp_path: Path, small: Any) -> RunFolder:
    folder = RunFolder.create("tiny", tmp_path / "run")
    folder.write_config(small.config)
    return folder


def test_a_finished_run_holds_what_it_should(written: RunFolder) -> None:
    assert {path.name for path in written.path.iterdir()} == FILES
    plots = {path.name for path in (written.path / "plots").iterdir()}
    assert plots == {"bytes.png", "confusion.png", "curves.png", "persons.png"}
    assert written.finished


def test_configuration_and_summary_come_back_as_they_were(written: RunFolder, small: Any) -> None:
    opened = RunFolder.open(written.path)
    assert opened.config() == small.config
    assert opened.summary() == small.summary
    found = json.loads((written.path / "summary.json").read_text())
    assert Summary.model_validate(found) == small.summary


def test_rounds_and_persons_are_tables(written: RunFolder, small: Any) -> None:
    rounds = pq.read_table(written.path / "rounds.parquet").to_pylist()
    assert len(rounds) == 40
    assert rounds[0]["macro_f1"] is None
    assert rounds[4]["macro_f1"] == small.outcomes[0].rounds[4].macro_f1
    persons = pq.read_table(written.path / "persons.parquet").to_pylist()
    assert len(persons) == 4 * (6 + 2)
    one = small.outcomes[0].unseen["person-1700"]
    row = next(r for r in persons if r["person"] == "person-1700" and r["strategy"] == "semipfl")
    assert (row["unseen"], row["windows"]) == (True, one.sum())
    assert row["macro_f1"] == macro_f1(one)


def test_confusion_is_by_strategy_and_person_and_needs_no_pickle(
    written: RunFolder, small: Any
) -> None:
    with np.load(written.path / "confusion.npz", allow_pickle=False) as arrays:
        assert arrays["strategies"].tolist() == ["semipfl", "source-adabn", "fedavg", "local"]
        assert arrays["classes"].tolist() == list(small.classes)
        expected = total(small.outcomes[2].confusion, 7)
        np.testing.assert_array_equal(arrays["confusion"][2], expected)
        assert arrays["unseen"].shape == (4, 7, 7)
        persons, counts = arrays["persons"].tolist(), arrays["by_person"]
        assert counts.shape == (4, 8, 7, 7)
        seen = counts[:, : len(small.outcomes[0].confusion)].sum(1)
        np.testing.assert_array_equal(seen, arrays["confusion"])
        one = small.outcomes[2].unseen["person-1700"]
        np.testing.assert_array_equal(counts[2, persons.index("person-1700")], one)


def test_the_folder_is_named_by_run_and_time_and_never_shared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = {RunFolder.create("tiny").path for _ in range(3)}
    assert len(paths) == 3
    assert all(path.parent == Path("runs") and path.name.startswith("tiny-2") for path in paths)


def test_two_starts_in_one_second_have_a_folder_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one makes its folder when this one has seen that there is none."""
    mkdir, made = Path.mkdir, []

    def late(path: Path, *args: Any, **how: Any) -> None:
        if path.name.startswith("tiny-") and not made:
            made.append(path)
            mkdir(path, *args, **how)
        mkdir(path, *args, **how)

    monkeypatch.setattr(Path, "mkdir", late)
    ours = RunFolder.create("tiny", root=tmp_path).path
    assert made
    assert ours.name == f"{made[0].name}-2"


def test_an_empty_folder_will_do_but_nothing_is_overwritten(tmp_path: Path) -> None:
    assert RunFolder.create("tiny", tmp_path).path == tmp_path
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RunError, match="is not empty; give --out a new folder"):
        RunFolder.create("tiny", tmp_path)
    with pytest.raises(RunError, match=r"thesis\.tex: is a file"):
        RunFolder.create("tiny", tmp_path / "thesis.tex")


def test_the_data_path_still_leads_there_from_the_run_folder(run: RunFolder) -> None:
    config = Simulation(name="tiny", data=Data(kind="npz", path="../data/mine.npz"))
    run.write_config(config, Path("/somewhere/files"))
    assert run.config().data.path == "/somewhere/data/mine.npz"


def test_an_interrupted_run_says_so(run: RunFolder) -> None:
    assert not run.finished
    with pytest.raises(RunError, match="did not end; go on with it by --resume"):
        run.summary()


def test_without_a_summary_nothing_counts_as_finished(
    run: RunFolder, small: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise RunError("report.html: cannot be written: No space left on device")

    monkeypatch.setattr("simulations.report.html.render", full)
    with pytest.raises(RunError, match="No space left"):
        run.write(small.summary, small.outcomes)
    assert not run.finished


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"format": 1, "name": "x"', "cut short or no JSON"),
        ("[1, 2]", "holds no object"),
        ('{"loss": 0.1}', "not what flwr-sim wrote: strategy: missing"),
        ('{"format": 2, "from": "tomorrow"}', "format 2 is of a later release"),
    ],
)
def test_a_foreign_summary_is_refused_in_one_line(
    run: RunFolder, content: str, problem: str
) -> None:
    (run.path / "summary.json").write_text(content)
    with pytest.raises(RunError, match=problem) as caught:
        run.summary()
    assert "\n" not in str(caught.value)
    assert "summary.json" in str(caught.value)


def test_a_summary_that_is_no_text_is_refused(run: RunFolder) -> None:
    (run.path / "summary.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(RunError, match="no text"):
        run.summary()


def test_a_broken_configuration_is_refused(run: RunFolder) -> None:
    (run.path / "config.toml").write_text("name = ")
    with pytest.raises(RunError, match="no TOML"):
        run.config()
    (run.path / "config.toml").write_text('name = "x"\nround = 3\n')
    with pytest.raises(RunError, match="round = 3: unknown key"):
        run.config()


def test_only_a_runs_folder_opens(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such folder"):
        RunFolder.open(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"holds no config\.toml"):
        RunFolder.open(tmp_path)


def test_a_path_in_the_home_folder_is_kept_as_what_it_stands_for(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    data = small.config.data.model_copy(update={"path": "~/own.npz"})
    folder = RunFolder.create("x", tmp_path / "run")
    folder.write_config(small.config.model_copy(update={"data": data}), tmp_path / "files")
    assert folder.config().data.path == str(tmp_path / "home" / "own.npz")
