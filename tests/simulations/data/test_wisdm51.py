import zipfile
from pathlib import Path

import numpy as np
import pytest

from schemas.simulation import Data
from simulations.data.base import DataError
from simulations.data.split import split
from simulations.data.wisdm51 import ACTIVITIES, Expected, Wisdm51Source

HZ = 20.0
FIVE = Data(path="it", window_seconds=5, source_persons=1)


class Small(Wisdm51Source):
    expected = Expected(persons=3, classes=2)


def lines(person: int, sensor: str, seconds: float = 60) -> str:
    """Walking, then folding; the gyroscope ticks faster, and half a tick off."""
    hz, late = (20.0, 0.0) if sensor == "accel" else (25.0, 0.02)
    text = ""
    for letter, start in (("A", 1000.0), ("S", 5000.0)):
        for time in start + late + np.arange(0, seconds, 1 / hz):
            nanoseconds = round(time * 1e9)
            text += f"{person},{letter},{nanoseconds},{time:.4f},{-time:.4f},{person}.5;\n"
    return text


def official() -> dict[str, str]:
    return {
        f"wisdm-dataset/raw/watch/{sensor}/data_{person}_{sensor}_watch.txt": lines(person, sensor)
        for person in (1600, 1601, 1629)
        for sensor in ("accel", "gyro")
    } | {"wisdm-dataset/raw/phone/accel/data_1600_accel_phone.txt": "not read"}


def write(folder: Path, files: dict[str, str]) -> None:
    with zipfile.ZipFile(folder / "inner.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    with zipfile.ZipFile(folder / "it", "w") as archive:
        archive.write(folder / "inner.zip", "wisdm-dataset.zip")


def test_the_official_form(tmp_path: Path) -> None:
    write(tmp_path, official())
    recordings = Small(FIVE, tmp_path).load()
    assert recordings.x.shape[1:] == (100, 6)
    assert recordings.persons == ("1600", "1601", "1629")
    assert recordings.classes == tuple(ACTIVITIES.values())
    assert set(recordings.y.tolist()) == {0, 17}
    assert len(np.unique(recordings.stream)) == 6
    assert np.bincount(recordings.stream).tolist() == [22] * 6
    assert recordings.notes == ()
    # Both sensors measured the time: on one grid they agree.
    assert np.allclose(recordings.x[:, :, 0], recordings.x[:, :, 3], atol=2e-3)
    assert np.allclose(np.diff(recordings.x[0, :, 0]), 1 / HZ, atol=1e-3)
    assert len(split(recordings, FIVE, 0).clients) == 2


def test_counts_are_verified(tmp_path: Path) -> None:
    write(tmp_path, official())
    with pytest.raises(DataError, match=r"3 persons \(accel\) and 3 \(gyro\); WISDM has .* 51"):
        Wisdm51Source(FIVE, tmp_path).load()
    files = official()
    files.popitem()
    del files["wisdm-dataset/raw/watch/gyro/data_1601_gyro_watch.txt"]
    write(tmp_path, files)
    with pytest.raises(DataError, match=r"3 persons \(accel\) and 2 \(gyro\)"):
        Small(FIVE, tmp_path).load()

    class Eighteen(Small):
        expected = Expected(persons=3)

    write(tmp_path, official())
    with pytest.raises(DataError, match="2 activities; WISDM has 18"):
        Eighteen(FIVE, tmp_path).load()


def test_a_person_whose_sensors_never_meet_is_named(tmp_path: Path) -> None:
    files = official()
    name = "wisdm-dataset/raw/watch/gyro/data_1629_gyro_watch.txt"
    files[name] = files[name].replace(",1", ",9").replace(",5", ",8")
    write(tmp_path, files)
    recordings = Small(FIVE, tmp_path).load()
    assert recordings.persons == ("1600", "1601")
    assert recordings.person.max() == 1
    assert recordings.notes == ("WISDM-51: no window of person 1629: left out",)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1600,N,1,1,1,1;", "activity 'N'; expected the letters ABC"),
        ("1600,A,1,nan,1,1;", "a value that is not finite"),
        ("1600,A,1,1,1", "expected lines 'person,activity"),
        ("1600,A,x,1,1,1;", "expected lines 'person,activity"),
        ("1601,A,1,1,1,1;", "a line of person 1601"),
    ],
)
def test_broken_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    files = official()
    files["wisdm-dataset/raw/watch/accel/data_1600_accel_watch.txt"] += line + "\n"
    write(tmp_path, files)
    with pytest.raises(DataError, match=rf"data_1600_accel_watch.txt: .*{message}"):
        Small(FIVE, tmp_path).load()


def test_an_empty_file_and_too_long_a_window(tmp_path: Path) -> None:
    write(tmp_path, official())
    with pytest.raises(DataError, match="window_seconds = 60"):
        Small(FIVE.model_copy(update={"window_seconds": 60}), tmp_path).load()
    files = official()
    files["wisdm-dataset/raw/watch/accel/data_1600_accel_watch.txt"] = ""
    write(tmp_path, files)
    with pytest.raises(DataError, match=r"data_1600_accel_watch.txt: .*no lines"):
        Small(FIVE, tmp_path).load()
