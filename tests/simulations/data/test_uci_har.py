import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from schemas.simulation import Data
from simulations.data.base import DataError
from simulations.data.split import split
from simulations.data.uci_har import SIGNALS, Expected, UciHarSource

ROOT = "UCI HAR Dataset"
LABELS = "1 WALKING\n2 SITTING\n"


def table(rows: np.ndarray) -> str:
    return "\n".join(" ".join(f"{v: .7e}" for v in row) for row in rows) + "\n"


def official() -> dict[str, str]:
    """Two persons in train and one in test, each 12 windows of two activities, by half."""
    files = {f"{ROOT}/activity_labels.txt": LABELS}
    rng = np.random.default_rng(0)
    for part, persons in (("train", (1, 3)), ("test", (2,))):
        signal = rng.standard_normal((64 * (24 * len(persons) + 1), 6))
        windows = np.stack([signal[64 * i : 64 * i + 128] for i in range(24 * len(persons))])
        for channel, name in enumerate(SIGNALS):
            path = f"{ROOT}/{part}/Inertial Signals/{name}_{part}.txt"
            files[path] = table(windows[:, :, channel])
            files[f"__MACOSX/{path}"] = "junk"
        files[f"{ROOT}/{part}/y_{part}.txt"] = ("1\n" * 12 + "2\n" * 12) * len(persons)
        subjects = "".join(f"{person}\n" * 24 for person in persons)
        files[f"{ROOT}/{part}/subject_{part}.txt"] = subjects
    return files


class Small(UciHarSource):
    expected = Expected(windows=72, persons=3, classes=2)


def write(path: Path, files: dict[str, str]) -> Data:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("UCI HAR Dataset.zip", inner.getvalue())
    return Data(path=path.name, source_persons=1)


def test_the_official_form(tmp_path: Path) -> None:
    files = official()
    config = write(tmp_path / "uci.zip", files)
    recordings = Small(config, tmp_path).load()
    assert recordings.x.shape == (72, 128, 6)
    assert recordings.x.dtype == np.float32
    assert recordings.persons == ("1", "2", "3")
    assert recordings.classes == ("WALKING", "SITTING")
    assert recordings.person.tolist() == [0] * 24 + [2] * 24 + [1] * 24
    assert recordings.y[:24].tolist() == [0] * 12 + [1] * 12
    assert "commercial" in recordings.notes[0]
    gyro_y = np.loadtxt(io.StringIO(files[f"{ROOT}/test/Inertial Signals/body_gyro_y_test.txt"]))
    assert np.allclose(recordings.x[48:, :, 4], gyro_y)


def test_the_cut_takes_neighbours_as_overlapping(tmp_path: Path) -> None:
    config = write(tmp_path / "uci.zip", official())
    recordings = Small(config, tmp_path).load()
    for part in split(recordings, config, 0).parts.values():
        # 12 windows: 7 training, 1 gap, 4 test; the test of walking then touches sitting's
        # training, which loses it its last window.
        assert [len(part.train), len(part.test)] == [14, 7]
        for row in part.test:
            assert (np.abs(part.train - row) > 1).all()


def test_counts_are_verified(tmp_path: Path) -> None:
    config = write(tmp_path / "uci.zip", official())
    with pytest.raises(DataError, match=r"72 windows of 3 persons and 2 .*10299 of 30 and 6"):
        UciHarSource(config, tmp_path).load()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("train/y_train.txt", "1\n", r"total_acc_x_train.txt has 48 rows, y_train.txt 1"),
        ("train/y_train.txt", "9\n" * 48, "activity 9 is not in activity_labels.txt"),
        ("train/y_train.txt", "one\n" * 48, r"y_train.txt: not a table of numbers"),
        ("train/subject_train.txt", None, r"no file train/subject_train.txt"),
        ("activity_labels.txt", "WALKING\n", "expected lines such as '1 WALKING'"),
        ("test/Inertial Signals/total_acc_z_test.txt", "1 2\n" * 24, "2 columns; expected 128"),
        ("test/Inertial Signals/total_acc_z_test.txt", " nan" * 128, "all finite"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    files = official()
    if text is None:
        del files[f"{ROOT}/{name}"]
    else:
        files[f"{ROOT}/{name}"] = text
    config = write(tmp_path / "uci.zip", files)
    with pytest.raises(DataError, match=message):
        Small(config, tmp_path).load()


def test_without_path_and_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Offline(UciHarSource):
        url = "http://127.0.0.1:9/uci.zip"

    monkeypatch.setenv("FLWR_EDGE_CACHE", str(tmp_path))
    with pytest.raises(DataError, match=r"could not be downloaded"):
        Offline(Data(), tmp_path).load()
