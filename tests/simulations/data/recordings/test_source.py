"""Folders as people have them, good and bad."""

import gzip
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from schemas.simulation import Data, Simulation
from simulations.data.base import DataError, Recordings
from simulations.data.load import source
from simulations.data.recordings.source import RecordingsSource
from simulations.data.split import split
from simulations.data.watch import WatchSource, watch_set

HEAD = "time,ax,ay,az,label\n"


def load(path: Path, data: dict[str, Any] | None = None, **options: Any) -> Recordings:
    config = {"window_seconds": 1.0, **(data or {})}
    return RecordingsSource(
        Data(kind="recordings", path=str(path), options=options, **config), Path()
    ).load()


def rows(
    seconds: float = 20.0, hz: float = 50.0, seed: int = 0, labels: tuple[str, ...] = ("sit", "go")
) -> list[list[str]]:
    """Cells of a recording whose labels follow each other."""
    count = int(seconds * hz)
    values = np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)
    said = [labels[i * len(labels) // count] for i in range(count)]
    return [
        [f"{i / hz:.4f}", *(str(v) for v in row), label]
        for i, (row, label) in enumerate(zip(values, said, strict=True))
    ]


def text(cells: list[list[str]], head: str = HEAD, sign: str = ",") -> str:
    return head.replace(",", sign) + "".join(sign.join(row) + "\n" for row in cells)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("ann", "bob", "cai")):
        (tmp_path / f"{name}.csv").write_text(text(rows(seed=seed)))
    return tmp_path


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as error:
        load(path, **options)
    return str(error.value)


def test_everything_is_found(folder: Path) -> None:
    found = load(folder)
    assert found.persons == ("ann", "bob", "cai")
    assert found.classes == ("go", "sit")
    assert found.channels == ("ax", "ay", "az")
    assert found.magnitudes == ((0, 1, 2),)
    assert found.hz == 50
    assert not found.notes
    raw = np.array([row[1:4] for row in rows(seed=1)], np.float32)
    for row in np.flatnonzero(found.person == 1):
        start = found.start[row]
        assert np.array_equal(found.x[row], raw[start : start + 50])
        assert found.classes[found.y[row]] == ("sit" if start + 25 <= 500 else "go")


def test_no_test_window_shares_samples_with_training(folder: Path, leaks: Any) -> None:
    found = load(folder, {"overlap": 0.8, "source_persons": 1})
    for part in split(found, Data(source_persons=1), 0).parts.values():
        assert len(part.test)
        assert leaks(found, part.train, part.test) == 0


def test_the_watch_set_by_way_of_csv_is_the_watch_set(tmp_path: Path) -> None:
    watch = watch_set()
    for signal, subject, y, side in zip(
        watch["X"], watch["subject"], watch["y"], watch["side"], strict=True
    ):
        path = tmp_path / f"person-{subject:02d}" / f"{y}-{side}.csv"
        path.parent.mkdir(exist_ok=True)
        label = watch["y_labels"][y]
        lines = [
            f"{i / 50:.2f},{','.join(str(v) for v in row)},{label}" for i, row in enumerate(signal)
        ]
        path.write_text("time,a x,a y,a z,g x,g y,g z,exercise\n" + "\n".join(lines))
    ours = load(tmp_path, {"window_seconds": 3.0})
    theirs = WatchSource(Data(), Path()).load()
    assert np.array_equal(ours.x, theirs.x)
    assert np.array_equal(ours.start, theirs.start)
    assert np.array_equal(ours.stream, theirs.stream)
    assert ours.persons == theirs.persons
    names = [np.array(found.classes)[found.y] for found in (ours, theirs)]
    assert np.array_equal(*names)
    assert ours.magnitudes == theirs.magnitudes


@pytest.mark.parametrize("form", ["tsv", "csv.gz", "parquet", "semicolons", "windows", "utf-16"])
def test_forms_of_files(folder: Path, form: str) -> None:
    plain = load(folder)
    for seed, path in enumerate(sorted(folder.glob("*.csv"))):
        cells, stem = rows(seed=seed), path.stem
        path.unlink()
        if form == "tsv":
            (folder / f"{stem}.tsv").write_text(text(cells, sign="\t"))
        elif form == "csv.gz":
            (folder / f"{stem}.csv.gz").write_bytes(gzip.compress(text(cells).encode()))
        elif form == "parquet":
            columns = {
                name: [float(c) if name != "label" else c for c in column]
                for name, column in zip(
                    HEAD.strip().split(","), zip(*cells, strict=True), strict=True
                )
            }
            pq.write_table(pa.table(columns), folder / f"{stem}.parquet")
        elif form == "semicolons":
            said = text(cells, sign=";").replace(".", ",")
            path.write_text(said)
        elif form == "windows":
            path.write_bytes(b"\xef\xbb\xbf" + text(cells).replace("\n", "\r\n").encode())
        else:
            path.write_text(text(cells), encoding="utf-16")
    found = load(folder)
    assert np.array_equal(found.x, plain.x)
    assert np.array_equal(found.y, plain.y)


@pytest.mark.parametrize("unit", ["ms", "epoch", "iso", "none"])
def test_clocks(folder: Path, unit: str) -> None:
    plain = load(folder)
    options = {"time": "", "hz": 50.0} if unit == "none" else {}
    for path in folder.glob("*.csv"):
        head, *lines = path.read_text().splitlines()
        told = []
        for line in lines:
            t, rest = line.split(",", 1)
            ms = round(float(t) * 1000)
            stamp = {
                "ms": str(ms),
                "epoch": str(1_704_276_000_000 + ms),
                "iso": str(np.datetime64("2024-01-03T10:00:00.000") + np.timedelta64(ms, "ms")),
                "none": "7",
            }[unit]
            told.append(f"{stamp},{rest}")
        path.write_text("\n".join([head, *told]))
    assert np.array_equal(load(folder, **options).x, plain.x)


def test_jitter_and_another_rate_are_brought_to_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, hz in (("ann", 50), ("bob", 50), ("cai", 25)):
        t = np.arange(20 * hz) / hz + rng.uniform(-0.2, 0.2, 20 * hz) / hz
        cells = [[f"{s:.5f}", f"{np.sin(s):.6f}", "a" if s < 10 else "b"] for s in t]
        (tmp_path / f"{name}.csv").write_text(text(cells, "time,ax,label\n"))
    found = load(tmp_path)
    assert found.hz == 50
    assert "cai.csv (25 Hz)" in found.notes[0]
    counts = np.bincount(found.person)
    assert counts.max() - counts.min() <= 1
    wave = found.x[found.start == 0][:, :, 0]
    assert np.abs(wave - np.sin(np.arange(50) / 50)).max() < 0.02


def test_gaps_end_streams_and_short_ones_are_bridged(folder: Path) -> None:
    cells = rows(seed=0)
    kept = [row for i, row in enumerate(cells) if not 200 <= i < 210 and not 300 <= i < 400]
    (folder / "ann.csv").write_text(text(kept))
    found = load(folder)
    own = found.stream[found.person == 0]
    assert len(np.unique(own)) == 2
    assert int(found.start[(found.person == 0) & (found.stream == own[0])].max()) + 50 <= 300


def test_empty_cells_are_silence(folder: Path) -> None:
    cells = rows(seed=0)
    for row in cells[100:110]:
        row[1] = ""
    for row in cells[300:400]:
        row[2] = "NaN"
    (folder / "ann.csv").write_text(text(cells))
    found = load(folder)
    assert np.isfinite(found.x).all()
    assert len(np.unique(found.stream[found.person == 0])) == 2


def test_sensors_that_write_lines_in_turn(tmp_path: Path) -> None:
    for name in ("ann", "bob"):
        cells = []
        for i in range(1000):
            label = "a" if i < 500 else "b"
            cells += [[f"{i * 20}", "1.0", "", label], [f"{i * 20 + 7}", "", "2.0", label]]
        (tmp_path / f"{name}.csv").write_text(text(cells, "time_ms,acc,gyro,label\n"))
    found = load(tmp_path, hz=50.0)
    assert (found.x == np.array([1, 2], np.float32)).all()


def test_labels(folder: Path) -> None:
    cells = rows(seed=0, labels=("sit", "", "transition", "go", " Sit "))
    (folder / "ann.csv").write_text(text(cells))
    found = load(folder, leave_out=["transition"], rename={"go": "move"})
    assert found.classes == ("Sit", "move", "sit")
    assert (found.y[found.person == 0] == -1).any()
    start = found.start[found.person == 0]
    assert not ((start > 400 - 12) & (start < 600 - 38)).any()
    assert any("nearly the same" in note for note in found.notes)


def test_agreement(folder: Path) -> None:
    some, all_ = (load(folder, {"overlap": 0.8}, agreement=a) for a in (0.51, 1.0))
    assert len(some.x) > len(all_.x)


def test_many_windows_without_a_majority_are_told_of(folder: Path) -> None:
    for path in folder.glob("*.csv"):
        path.write_text(text(rows(labels=("sit", "go") * 6)))
    assert not [n for n in load(folder, {"window_seconds": 0.2}).notes if "no label holds" in n]
    note = next(n for n in load(folder, agreement=0.9).notes if "no label holds for 90%" in n)
    lost, every = (int(word) for word in note.split(" windows")[0].split(" of "))
    assert lost + len(load(folder, agreement=0.9).x) == every
    assert lost > every / 10


def test_what_many_files_have_in_common_is_one_note(folder: Path) -> None:
    for path in folder.glob("*.csv"):
        path.write_text(path.read_text().replace(",", ";").replace(".", ","))
    notes = load(folder).notes
    assert [n for n in notes if "decimal commas" in n] == [
        "ann.csv and 2 more files: decimal commas; data.options.decimal says otherwise"
    ]


def test_persons_by_column_folder_and_pattern(folder: Path) -> None:
    whole = "".join(
        f"{who},{','.join(row)}\n" for seed, who in enumerate("ab") for row in rows(seed=seed)
    )
    file = folder / "all.csv"
    file.write_text("subject,time,ax,ay,az,label\n" + whole)
    assert load(file).persons == ("a", "b")
    file.unlink()
    for path in list(folder.glob("*.csv")):
        (folder / "raw" / path.stem).mkdir(parents=True)
        path.rename(folder / "raw" / path.stem / "1.csv")
    assert load(folder).persons == ("ann", "bob", "cai")
    for path in list(folder.rglob("*.csv")):
        path.rename(folder / f"s{path.parent.name}_{path.name}")
    (folder / "s_.csv").write_text("other")
    found = load(folder, pattern="s{person}_*.csv")
    assert found.persons == ("ann", "bob", "cai")
    assert "do not fit" in found.notes[0]


def test_a_readme_beside_recordings_is_none(folder: Path) -> None:
    (folder / "readme.txt").write_text("These are mine.\nThanks\n")
    found = load(folder)
    assert found.persons == ("ann", "bob", "cai")
    assert "readme.txt" in found.notes[0]
    for path in folder.glob("*.csv"):
        path.rename(path.with_suffix(".txt"))
    assert "readme.txt: no " in refused(folder)
    (folder / "readme.txt").unlink()
    assert load(folder).persons == found.persons


def test_a_label_in_the_file_s_name(tmp_path: Path) -> None:
    for name in ("ann", "bob"):
        for seed, label in enumerate(("sit", "go")):
            cells = [row[:4] for row in rows(seed=seed)]
            (tmp_path / f"{name}-{label}.csv").write_text(text(cells, "time,ax,ay,az\n"))
    found = load(tmp_path, pattern="{person}-{label}.csv")
    assert (found.persons, found.classes) == (("ann", "bob"), ("go", "sit"))


def test_a_person_s_two_recordings_are_one_person(folder: Path) -> None:
    (folder / "ann_2.csv").write_text(text(rows(seed=9)))
    (folder / "ann.csv").rename(folder / "ann_1.csv")
    assert any("count as two persons" in note for note in load(folder).notes)


def test_dates_are_hardly_persons(folder: Path) -> None:
    for day, path in enumerate(sorted(folder.glob("*.csv"))):
        path.rename(folder / f"2024-01-0{day + 1}.csv")
    assert any("dates?" in note for note in load(folder).notes)


def change(path: Path, line: int, cell: int, value: str) -> None:
    lines = path.read_text().splitlines()
    cells = lines[line - 1].split(",")
    cells[cell] = value
    lines[line - 1] = ",".join(cells)
    path.write_text("\n".join(lines))


def test_text_among_numbers_is_named_with_its_line(folder: Path) -> None:
    change(folder / "ann.csv", 812, 2, "err")
    said = refused(folder)
    assert "ann.csv: line 812: column 'ay': 'err' is no number" in said
    change(folder / "ann.csv", 812, 2, "1")
    change(folder / "bob.csv", 4, 2, "err")
    assert "bob.csv: line 4: column 'ay': 'err'" in refused(folder)


def test_what_no_sensor_measures_is_named_with_its_line(folder: Path) -> None:
    for value in ("1e400", "-1e16"):
        change(folder / "ann.csv", 7, 1, value)
        assert "ann.csv: line 7: column 'ax': " in refused(folder)


def test_time_that_goes_back(folder: Path) -> None:
    (folder / "bob.csv").write_text(text(rows(seed=1) + rows(seed=2)))
    assert "bob.csv: line 1002: time goes back" in refused(folder)
    found = load(folder, restarts=True)
    assert len(np.unique(found.stream[found.person == 1])) == 2


def test_a_clock_of_whole_seconds(folder: Path) -> None:
    cells = [[str(int(float(r[0]))), *r[1:]] for r in rows()]
    (folder / "ann.csv").write_text(text(cells))
    assert "the same time as the line before" in refused(folder, time_unit="s")


def test_a_counter_is_no_time(folder: Path) -> None:
    cells = [[str(i), *row[1:]] for i, row in enumerate(rows())]
    (folder / "ann.csv").write_text(text(cells))
    assert "steps of 1: seconds, milliseconds or a number of samples" in refused(folder)


BAD: dict[str, tuple[str, str]] = {
    "header": (HEAD, "ann.csv: no samples"),
    "empty": ("", "ann.csv: empty"),
    "numbers": (text(rows(), head=""), "data.options.columns"),
    "twice": (text(rows(), HEAD.replace("ay", "ax")), "two columns are named 'ax'"),
    "null": ("time,ax\n\0\0", "null characters"),
    "ragged": (text([*rows()[:9], ["1"] * 7, *rows()[9:]]), "line 11: 7 cells"),
    "no label": (
        text([r[:4] for r in rows()], "time,ax,ay,az\n"),
        "no column of labels among time, ax, ay, az",
    ),
    "no time": (text([r[1:] for r in rows()], "ax,ay,az,label\n"), "no column of time"),
    "no channel": (text([[r[0], r[4]] for r in rows()], "time,label\n"), "no channel"),
    "bad time": (text([[f"x{r[0]}", *r[1:]] for r in rows()]), "line 2: column 'time': 'x0.0000'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(folder: Path, case: str) -> None:
    content, said = BAD[case]
    (folder / "ann.csv").write_text(content)
    assert said in refused(folder)


def test_columns_that_differ_between_files(folder: Path) -> None:
    (folder / "bob.csv").write_text(text([r[:3] + r[4:] for r in rows()], "time,ax,ay,label\n"))
    said = refused(folder)
    assert "bob.csv: no column 'az'; it has time, ax, ay, label; ann.csv has it" in said
    assert load(folder, channels=["ax", "ay"]).channels == ("ax", "ay")
    (folder / "bob.csv").write_text(text([[*r, "1"] for r in rows()], HEAD.strip() + ",hr\n"))
    assert "a column 'hr' that ann.csv has not" in refused(folder)
    assert len(load(folder, ignore=["hr"]).channels) == 3


def test_one_person_one_class_nobody_labelled(folder: Path) -> None:
    assert "one person, 'ann'" in refused(folder / "ann.csv")
    (folder / "ann.csv").write_text(text(rows(labels=("",))))
    assert "person 'ann': no window has a label" in refused(folder)
    assert load(folder, skip_persons=["ann"]).persons == ("bob", "cai")
    assert "no person 'dee'" in refused(folder, skip_persons=["dee"])
    for name in ("ann", "bob", "cai"):
        (folder / f"{name}.csv").write_text(text(rows(labels=("sit",))))
    assert "of the class 'sit'; two classes are needed" in refused(folder)


def test_where_nothing_is(tmp_path: Path) -> None:
    assert "no such file or folder" in refused(tmp_path / "none")
    assert "no recordings in it" in refused(tmp_path)
    (tmp_path / "a.csv").write_text(text(rows()))
    assert "fits none of 1 files, such as a.csv" in refused(tmp_path, pattern="x{person}.csv")


def test_few_windows_are_left_out_where_one_says_so(folder: Path) -> None:
    (folder / "ann.csv").write_text(text(rows(labels=("sit",) * 19 + ("go",))))
    found = load(folder, least_windows=4)
    assert set(found.y[found.person == 0]) == {1}
    assert "ann's go (" in found.notes[0]


def test_a_last_line_that_is_cut_off(folder: Path) -> None:
    path = folder / "ann.csv"
    path.write_text(path.read_text()[:-9])
    assert any("last line is cut off" in note for note in load(folder).notes)


def test_what_would_take_too_much_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RecordingsSource, "max_bytes", 40_000)
    assert "windows so far take over" in refused(folder)
    monkeypatch.setattr(RecordingsSource, "max_bytes", 10_000)
    assert "samples so far take over" in refused(folder)
    monkeypatch.setattr("simulations.data.recordings.text.MAX_TEXT", 1000)
    assert "over 1,000 bytes of text" in refused(folder)
    monkeypatch.undo()
    assert "cannot be brought to" in refused(folder, hz=100_000.0)


def test_options_are_checked() -> None:
    for wrong in (
        {"pattern": "{who}.csv"},
        {"time": ""},
        {"channels": ["a", "a"]},
        {"channels": ["a"], "ignore": ["a"]},
    ):
        with pytest.raises(ValidationError):
            RecordingsSource.Parameters.model_validate(wrong)
    assert "pattern" in json.dumps(RecordingsSource.Parameters.model_json_schema())


def test_a_person_s_days_stand_in_the_order_of_their_dates(tmp_path: Path) -> None:
    for name in ("ann", "bob"):
        (tmp_path / name).mkdir()
        for file, day in (("a", 4), ("b", 3)):
            begin = np.datetime64(f"2024-01-0{day}T10:00:00", "ms")
            cells = [[str(begin + i * 20), str(day), *r[2:]] for i, r in enumerate(rows())]
            (tmp_path / name / f"{file}.csv").write_text(text(cells))
    found = load(tmp_path)
    own = found.person == 0
    first = found.stream[own].min()
    assert (found.x[own & (found.stream == first)][:, :, 0] == 3).all()


def test_the_readme_s_folder_and_file(tmp_path: Path) -> None:
    page = (Path(__file__).parents[4] / "README.md").read_text(encoding="utf-8")
    block = page[page.index("## Your own data") :].split("```toml\n")[1].split("```")[0]
    table = tomllib.loads(block)
    for name in ("ann", "bob", "cai"):
        for day in (3, 4):
            path = tmp_path / "mine" / name / f"2024-01-0{day}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            labels = ("Walk", "transition", "sit", "walk")
            cells = [
                [str(1_704_276_000_000 + day * 86_400_000 + i * 20), *r[1:]]
                for i, r in enumerate(rows(60, labels=labels))
            ]
            path.write_text(text(cells, "timestamp,acc_x,acc_y,acc_z,activity\n"))
    config = Simulation.model_validate(table)
    found = source(config.data, tmp_path).load()
    assert (found.persons, found.classes) == (("ann", "bob", "cai"), ("sit", "walk"))
    assert found.magnitudes == ((0, 1, 2),)
    assert len(split(found, config.data, 0).clients) == 2
