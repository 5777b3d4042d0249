import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.simulation import Data
from simulations.data.base import DataError, Recordings
from simulations.data.npz import NpzSource


def arrays(**changes: Any) -> dict[str, Any]:
    """Two persons, two classes, eight half overlapping windows of each."""
    rng = np.random.default_rng(0)
    signals = rng.standard_normal((4, 45, 6)).astype(np.float16)
    content = {
        "X": np.stack([s[5 * i : 5 * i + 10] for s in signals for i in range(8)]),
        "y": np.tile(np.repeat([0, 1], 8), 2),
        "subject": np.repeat([0, 1], 16),
        "subjects": np.array(["ann", "bob"]),
        "classes": np.array(["sit", "run"]),
        "hz": np.int64(20),
        **changes,
    }
    return {key: value for key, value in content.items() if value is not None}


def load(folder: Path, overlap: float = 0.5, **changes: Any) -> Recordings:
    np.savez(folder / "own.npz", **arrays(**changes))
    return NpzSource(Data(kind="npz", path="own.npz", overlap=overlap), folder).load()


def changed(key: str, at: Any, value: Any) -> dict[str, Any]:
    array = arrays()[key].copy()
    array[at] = value
    return {key: array}


def test_what_is_documented(tmp_path: Path) -> None:
    recordings = load(tmp_path)
    assert recordings.x.dtype == np.float16
    assert (recordings.persons, recordings.classes) == (("ann", "bob"), ("sit", "run"))
    assert recordings.hz == 20
    assert recordings.magnitudes == ((0, 1, 2), (3, 4, 5))
    assert recordings.channels[3] == "gyro-x"
    assert recordings.stream.tolist() == np.repeat(range(4), 8).tolist()
    assert recordings.start[:8].tolist() == [0, 5, 10, 15, 20, 25, 30, 35]
    assert recordings.notes == ()


def test_what_is_optional(tmp_path: Path) -> None:
    left_out = dict.fromkeys(("subjects", "classes", "hz"))
    subject = np.repeat([7, 3], 16)
    recordings = load(tmp_path, **left_out, subject=subject, X=arrays()["X"][:, :, :2])
    assert recordings.persons == ("3", "7")
    assert recordings.person[0] == 1
    assert recordings.classes == ("0", "1")
    assert recordings.channels == ("ch0", "ch1")
    assert recordings.magnitudes == ()
    assert "no hz" in recordings.notes[0]


def test_stream_and_start_are_taken_as_given_and_streams_are_one_person_s(tmp_path: Path) -> None:
    stream, start = np.tile([4, 9], 16), np.arange(32) * 3
    recordings = load(tmp_path, stream=stream, start=start)
    assert recordings.start.tolist() == start.tolist()
    assert len(np.unique(recordings.stream)) == 4


def test_run_and_pos_give_the_order(tmp_path: Path) -> None:
    content = arrays()
    shuffled = np.random.default_rng(1).permutation(32)
    run, pos = np.repeat(range(4), 8)[shuffled], np.tile(range(8), 4)[shuffled]
    columns = {key: content[key][shuffled] for key in ("X", "y", "subject")}
    recordings = load(tmp_path, **columns, run=run, pos=pos)
    assert recordings.start.tolist() == (pos * 5).tolist()


def test_scale_magnitudes_channels_and_notes(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(-100, 100, (32, 10, 3)).astype(np.int16)
    recordings = load(
        tmp_path,
        X=x,
        scale=10,
        magnitudes=np.array([[0, 1], [2, -1]]),
        channels=np.array(["a", "b", "c"]),
        notes="somewhere, 2020",
    )
    assert recordings.x.dtype == np.float32
    assert np.allclose(recordings.x, x / 10)
    assert recordings.magnitudes == ((0, 1), (2,))
    assert recordings.channels == ("a", "b", "c")
    assert recordings.notes == ("somewhere, 2020",)


def test_a_compressed_file_is_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "own.npz", **arrays())
    recordings = NpzSource(Data(path="own.npz"), tmp_path).load()
    assert np.array_equal(recordings.x, arrays()["X"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"X": None}, "X: missing; the file has y, subject"),
        ({"y": None}, "y: missing"),
        ({"subject": None}, "subject: missing"),
        ({"X": np.zeros((32, 10))}, r"X: shape \(32, 10\); expected \(windows, time, channels\)"),
        ({"X": np.zeros((0, 10, 6)), "y": [], "subject": []}, r"X: shape \(0, 10, 6\)"),
        ({"X": np.zeros((32, 10, 6), "c8")}, "X: type complex64"),
        (changed("X", (17, 3, 2), np.nan), r"X: window 17 \(person 'bob'\) holds NaN or infinity"),
        (changed("X", (2, 0, 0), -np.inf), r"X: window 2 \(person 'ann'\)"),
        ({"X": np.full((32, 10, 6), 1e300)}, r"X: window 0 \(person 'ann'\)"),
        (
            {"X": np.full((32, 10, 6), -1e30, np.float32)},
            r"X: window 0 \(person 'ann'\) holds a value of 1e\+30; at most 1e\+15 is read",
        ),
        (changed("y", 5, 2), "y: entry 5 is 2; expected an index into 2 classes"),
        (changed("y", 6, -2), "y: entry 6 is -2"),
        ({**changed("y", 5, 10**9), "classes": None}, "y: entry 5 is 1000000000; expected under"),
        ({"y": np.zeros(32)}, "y: type float64; expected whole numbers"),
        ({"y": np.zeros(31, int)}, r"y: shape \(31,\); expected \(32,\)"),
        (changed("subject", 0, 2), "subject: entry 0 is 2; expected an index into 2 subjects"),
        (changed("subject", 0, -1), "subject: entry 0 is -1"),
        ({"subjects": np.array(["ann", "ann"])}, "subjects: a name stands twice"),
        ({"classes": np.zeros(2)}, r"classes: shape \(2,\) of float64; expected a row of names"),
        ({"channels": np.array(["a"])}, "channels: 1 names for 6 channels"),
        ({"hz": 0}, "hz: is 0.0; expected a number above 0"),
        ({"scale": np.nan}, "scale: is nan"),
        ({"scale": np.ones(6)}, "scale: shape .* expected one number"),
        ({"stream": np.zeros(32, int)}, "start: missing; stream and start go together"),
        ({"pos": np.zeros(32, int)}, "run: missing"),
        ({"stream": np.zeros(32, int), "start": np.arange(32) - 1}, "start: entry 0 is -1"),
        ({"stream": np.zeros(32, int), "start": np.full(32, 2**62)}, "start: entry 0 is 4611"),
        ({"magnitudes": np.array([[0, 6]])}, "magnitudes: entry 1 is 6; expected one of 6"),
        ({"magnitudes": np.array([0, 1])}, "magnitudes: expected whole numbers"),
        ({"subjects": np.array(["ann", None])}, "subjects: holds pickled Python objects"),
    ],
)
def test_bad_content_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path, **changes)
    assert "own.npz: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_windows_that_overlap_by_more_than_data_overlap_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"share 5 of 10 samples.*set data.overlap = 0.5"):
        load(tmp_path, overlap=0)
    load(tmp_path, overlap=0.9)  # more than is there is safe


def test_a_still_sensor_is_no_overlap(tmp_path: Path) -> None:
    load(tmp_path, overlap=0, X=np.ones((32, 10, 6), np.float32))


def slow(steps: int, correlation: float, deviation: float) -> np.ndarray[Any, Any]:
    """A signal that forgets slowly, (steps,)."""
    rng = np.random.default_rng(1)
    noise = rng.normal(size=steps) * deviation * np.sqrt(1 - correlation**2)
    signal = np.zeros(steps)
    for step in range(1, steps):
        signal[step] = correlation * signal[step - 1] + noise[step]
    return signal


COARSE = {
    "heart rate": (30, lambda n: np.round(70 + slow(n, 0.98, 3))),
    "temperature": (60, lambda n: np.round(33 + slow(n, 0.999, 0.3), 1)),
    "switch": (32, lambda n: slow(n, 0.95, 1) > 1),
    "steps": (30, lambda n: np.random.default_rng(2).poisson(0.3, n)),
}


def cut_from(signal: np.ndarray[Any, Any], length: int, step: int) -> dict[str, Any]:
    """Windows of one channel: two persons, two classes."""
    count = (len(signal) - length) // step + 1
    x = np.stack([signal[step * n : step * n + length] for n in range(count)])
    quarter = np.arange(count) * 4 // count
    return {"X": x[..., None].astype(np.float32), "y": quarter % 2, "subject": quarter // 2}


@pytest.mark.parametrize("name", COARSE)
def test_a_slow_or_coarse_signal_is_no_overlap(tmp_path: Path, name: str) -> None:
    length, make = COARSE[name]
    for windows in (40, 320):
        load(tmp_path, overlap=0, **cut_from(make(windows * length), length, length))


@pytest.mark.parametrize("name", COARSE)
@pytest.mark.parametrize("share", [2, 4])
def test_an_overlap_of_a_slow_or_coarse_signal_is_seen(
    tmp_path: Path, name: str, share: int
) -> None:
    length, make = COARSE[name]
    content = cut_from(make(160 * length), length, length - length // share)
    with pytest.raises(DataError, match=r"set data\.overlap = 0\..* keys stream and start"):
        load(tmp_path, overlap=0, **content)


def lively(changes: list[int], step: int) -> dict[str, Any]:
    """Windows of 20 samples, cut through where the class changes at those windows."""
    signal = np.random.default_rng(4).normal(size=(2000, 3))
    x = np.stack([signal[step * n : step * n + 20] for n in range(90)])
    y = np.searchsorted(changes, np.arange(90), side="right") % 3 - 1
    return {"X": x, "y": y, "subject": np.arange(90) // 45}


@pytest.mark.parametrize("changes", [[20], [20, 30, 31, 50, 60]])
def test_a_recording_that_goes_on_through_a_change_of_class_needs_its_times(
    tmp_path: Path, changes: list[int]
) -> None:
    with pytest.raises(
        DataError, match=r"share 10 of 20 samples where the class.*stream and start"
    ):
        load(tmp_path, **lively(changes, step=10))
    timed = {"stream": np.arange(90) // 45, "start": np.arange(90) * 10}
    assert load(tmp_path, **lively(changes, step=10), **timed)
    load(tmp_path, **lively(changes, step=20))  # they share nothing
    apart = lively(changes, step=10)
    apart["X"][np.array(changes)] = np.random.default_rng(5).normal(size=(len(changes), 20, 3))
    load(tmp_path, **apart)


@pytest.mark.parametrize("name", COARSE)
def test_a_change_of_class_within_a_slow_or_coarse_recording_is_seen(
    tmp_path: Path, name: str
) -> None:
    length, make = COARSE[name]
    content = cut_from(make(160 * length), length, length // 2)
    content["y"] = np.arange(len(content["X"])) // 8 % 2
    with pytest.raises(DataError, match=r"where the class changes"):
        load(tmp_path, overlap=0.5, **content)
    content = cut_from(make(160 * length), length, length) | {"y": np.arange(160) // 8 % 2}
    load(tmp_path, overlap=0.5, **content)


@pytest.mark.parametrize("shared", [5, 9])
def test_a_small_overlap_of_a_lively_signal_is_seen(tmp_path: Path, shared: int) -> None:
    signal = np.random.default_rng(3).normal(size=(10_000, 3))
    windows = np.stack([signal[n : n + 100] for n in range(0, 9_900, 100 - shared)])
    person = np.arange(len(windows)) * 2 // len(windows)
    content = {"X": windows, "y": np.zeros(len(windows), int), "subject": person}
    with pytest.raises(DataError, match=f"share {shared} of 100 samples"):
        load(tmp_path, overlap=0, **content)


def test_no_path_no_file_and_no_zip(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.path: missing"):
        NpzSource(Data(), tmp_path).load()
    with pytest.raises(DataError, match=r"none.npz: no such file or folder; data.path is read"):
        NpzSource(Data(path="none.npz"), tmp_path).load()
    with pytest.raises(DataError, match=r"no such file; data.path must name an .npz"):
        NpzSource(Data(path="."), tmp_path).load()
    (tmp_path / "text.npz").write_text("time,x,y,z")
    with pytest.raises(DataError, match=r"text.npz: not a readable .npz file"):
        NpzSource(Data(path="text.npz"), tmp_path).load()


@pytest.mark.parametrize("keep", [0, 10, 100, 1000, 4000, -30])
def test_a_truncated_file(tmp_path: Path, keep: int) -> None:
    np.savez(tmp_path / "whole.npz", **arrays())
    (tmp_path / "own.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:keep])
    with pytest.raises(DataError, match=r"own.npz"):
        NpzSource(Data(path="own.npz"), tmp_path).load()


@pytest.mark.parametrize("at", [800, 1_000_000])
def test_a_flipped_bit(tmp_path: Path, at: int) -> None:
    np.savez(tmp_path / "own.npz", **arrays(X=np.zeros((32, 1000, 6))))
    content = bytearray((tmp_path / "own.npz").read_bytes())
    content[at] ^= 1
    (tmp_path / "own.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"own.npz: X: .*Bad CRC-32"):
        NpzSource(Data(path="own.npz"), tmp_path).load()


@pytest.mark.parametrize("shape", ["(10**6, 10**6, 10**6)", "(1000000000, 128, 6)", "(-1, 10, 6)"])
def test_a_header_that_lies_allocates_nothing(tmp_path: Path, shape: str) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
    header = header.ljust(117) + "\n"
    body = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(240)
    with zipfile.ZipFile(tmp_path / "own.npz", "w") as archive:
        archive.writestr("X.npy", body)
    with pytest.raises(DataError, match=r"X: (its header says|not a readable array)"):
        NpzSource(Data(path="own.npz"), tmp_path).load()


def test_a_file_over_the_limit(tmp_path: Path) -> None:
    class Small(NpzSource):
        max_bytes = 1000

    np.savez(tmp_path / "own.npz", **arrays())
    with pytest.raises(DataError, match=r"its arrays take 4,4.. bytes; at most 1,000 are read"):
        Small(Data(path="own.npz"), tmp_path).load()


def test_real_sets(shared: Callable[[str], Path]) -> None:
    wisdm = NpzSource(Data(path=str(shared("wisdm51_watch_accgyro.npz"))), Path()).load()
    assert wisdm.x.shape == (57_763, 100, 6)
    assert wisdm.x.dtype == np.float16
    assert (len(wisdm.persons), len(wisdm.classes), wisdm.hz) == (46, 18, 20)
    assert wisdm.notes == ("WISDM-51: 5 of 51 persons are missing: 1629, 1637, 1638, 1639, 1640",)
    uci = NpzSource(Data(path=str(shared("uci_har_6ch.npz"))), Path()).load()
    assert uci.x.shape == (10_299, 128, 6)
    assert "commercial" in uci.notes[0]
    follows = np.lexsort((uci.start, uci.stream))
    here, following = follows[:-1], follows[1:]
    same = uci.stream[here] == uci.stream[following]
    assert np.array_equal(uci.x[here[same], 64:], uci.x[following[same], :64])


def test_real_sets_with_too_small_an_overlap(shared: Callable[[str], Path]) -> None:
    for name in ("wisdm51_watch_accgyro.npz", "uci_har_6ch.npz"):
        with pytest.raises(DataError, match=r"set data.overlap = 0.5"):
            NpzSource(Data(path=str(shared(name)), overlap=0.25), Path()).load()
