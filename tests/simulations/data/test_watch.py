import json
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.simulation import Data
from simulations.data import watch as module
from simulations.data.base import DataError
from simulations.data.watch import WatchSource, watch_set


def watch(**changes: Any) -> dict[str, Any]:
    return {**watch_set(), **changes}


def test_the_whole_set() -> None:
    recordings = WatchSource(Data(), Path()).load()
    assert recordings.x.shape[1:] == (150, 6)
    assert recordings.x.dtype == np.float32
    assert recordings.persons[0] == "person-01"
    assert len(recordings.persons) == 10
    assert len(recordings.classes) == 7
    assert len(np.unique(recordings.stream)) == 140
    assert recordings.magnitudes == ((0, 1, 2), (3, 4, 5))
    assert "wrist" in recordings.notes[0]


def test_windows_are_the_recordings_own() -> None:
    raw = watch()
    recordings = WatchSource(Data(overlap=0.9), Path()).recordings(raw)
    # Stream 1 is the first person's first exercise with the watch on the right.
    which = (raw["subject"] == 1) & (raw["y"] == 0) & (raw["side"] == 1)
    signal = raw["X"][int(np.flatnonzero(which)[0])].astype(np.float32)
    rows = np.flatnonzero(recordings.stream == 1)
    assert len(rows) == (len(signal) - 150) // 15 + 1
    for row in rows:
        start = recordings.start[row]
        assert np.array_equal(recordings.x[row], signal[start : start + 150])
    assert (recordings.person[rows] == 0).all()
    assert (recordings.y[rows] == 0).all()


def test_a_set_of_other_counts_is_refused() -> None:
    raw = watch()
    with pytest.raises(DataError, match=r"139 recordings of 10 persons; expected 140"):
        WatchSource(Data(), Path()).recordings({**raw, "X": raw["X"][:-1]})


def test_foreign_forms_are_refused() -> None:
    raw = watch()
    with pytest.raises(DataError, match="known form"):
        WatchSource(Data(), Path()).recordings({"X": raw["X"]})
    broken = [signal.copy() for signal in raw["X"]]
    broken[3][0, 0] = np.nan
    with pytest.raises(DataError, match="recording 3"):
        WatchSource(Data(), Path()).recordings({**raw, "X": broken})


def test_a_window_longer_than_a_recording_is_refused() -> None:
    with pytest.raises(DataError, match=r"window_seconds = 20: the shortest .* 18\.9 s"):
        WatchSource(Data(window_seconds=20), Path()).load()


def test_the_package_s_own_imports_are_left_out() -> None:
    script = (
        "import json, sys; from simulations.data.watch import watch_set; "
        "watch_set(); print(json.dumps(list(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert not {"sklearn", "scipy", "pandas", "seglearn"} & set(json.loads(done.stdout))


def test_without_the_package_it_says_what_to_install(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(DataError, match=r"seglearn \(pip install 'flwr-edge\[sim\]'\): No module"):
        watch_set()
    elsewhere = ModuleSpec("seglearn", None, origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(module, "find_spec", lambda _: elsewhere)
    with pytest.raises(DataError, match=r"datasets\.py"):
        watch_set()
