import tomllib
from pathlib import Path

import pytest

from schemas.base import ConfigError
from schemas.simulation import Data
from simulations.data.base import DataError
from simulations.data.load import GROUP, kinds, source

PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"


def install(folder: Path, name: str, points: dict[str, str]) -> None:
    """Lay down what an installer does: a distribution with entry points."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"[{GROUP}]", *(f"{kind} = {value}" for kind, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Our distribution, and one of somebody else."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    install(tmp_path, "flwr_edge", project["entry-points"][GROUP])
    (tmp_path / "others_sets.py").write_text(
        "from pydantic import Field\n"
        "from schemas.base import Strict\n"
        "from simulations.data.base import DataSource\n"
        "class Own(DataSource):\n"
        "    def load(self): return None\n"
        "class Idle(DataSource): pass\n"
        "class Tuned(Own):\n"
        "    class Parameters(Strict):\n"
        "        hz: float = Field(50.0, gt=0)\n"
        "none = 3\n"
    )
    (tmp_path / "others_half.py").write_text("raise TypeError('not on\\nthis machine')")
    theirs = {"own": "others_sets:Own", "none": "others_sets:none", "gone": "others_gone:Own"}
    theirs |= {"half": "others_half:Own", "idle": "others_sets:Idle", "tuned": "others_sets:Tuned"}
    install(tmp_path, "others", theirs)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("watch", "WatchSource"),
        ("npz", "NpzSource"),
        ("uci-har", "UciHarSource"),
        ("wisdm51", "Wisdm51Source"),
        ("own", "Own"),
    ],
)
def test_every_kind_is_found(installed: Path, kind: str, name: str) -> None:
    found = source(Data(kind=kind), installed)
    assert type(found).__name__ == name
    assert found.folder == installed


def test_an_unknown_kind_lists_what_is_installed(installed: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        source(Data(kind="wach"), installed)
    said = "data.kind = 'wach': no such data source; installed: days, gone, half, idle, none, npz"
    assert said in str(caught.value)


def test_kinds_are_those_that_can_be_loaded(installed: Path) -> None:
    assert list(kinds()) == [
        "days",
        "npz",
        "own",
        "recordings",
        "tuned",
        "uci-har",
        "watch",
        "wisdm51",
    ]


def test_a_broken_one_is_named(installed: Path) -> None:
    with pytest.raises(DataError, match=r"'gone' \(others_gone:Own\) cannot be loaded"):
        source(Data(kind="gone"), installed)
    with pytest.raises(DataError, match=r"'none' .* is no DataSource"):
        source(Data(kind="none"), installed)
    with pytest.raises(DataError, match=r"'half' .* loaded: TypeError: not on this machine$"):
        source(Data(kind="half"), installed)
    with pytest.raises(DataError, match=r"'idle' .* does not define load"):
        source(Data(kind="idle"), installed)


@pytest.mark.parametrize(
    ("kind", "key", "value", "taking"),
    [
        ("npz", "held_out", ("ann",), "days, own, tuned"),
        ("npz", "source_days", 3, "days, own, tuned"),
        ("watch", "path", "mine.npz", "days, npz, own, recordings, tuned, uci-har, wisdm51"),
        ("days", "source_persons", 5, "npz, own, recordings, tuned, uci-har, watch, wisdm51"),
        ("days", "window_seconds", 2.0, "own, recordings, tuned, watch, wisdm51"),
        ("uci-har", "overlap", 0.25, "days, npz, own, recordings, tuned, watch, wisdm51"),
        ("wisdm51", "client_days", 1, "days, own, tuned"),
    ],
)
def test_a_key_that_changes_nothing_is_refused_and_who_uses_it_is_named(
    installed: Path, kind: str, key: str, value: object, taking: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        source(Data.model_validate({"kind": kind, key: value}), installed)
    assert caught.value.problems == (
        f"data.{key} = {value!r}: data.kind = {kind!r} does not use it; those that do: {taking}",
    )


def test_a_default_may_stand_in_the_file_and_others_sources_take_all(installed: Path) -> None:
    whole = Data().model_dump()
    assert source(Data.model_validate(whole | {"kind": "npz"}), installed)
    assert source(Data(kind="own", held_out=("ann",), window_seconds=1), installed)


def test_a_source_s_own_options_are_checked(installed: Path) -> None:
    assert source(Data(kind="tuned"), installed).options.hz == 50
    assert source(Data(kind="tuned", options={"hz": 20}), installed).options.hz == 20
    for kind, options, said in (
        ("tuned", {"hz": 0}, "data.options.hz = 0: "),
        ("tuned", {"hx": 3}, "data.options.hx = 3: unknown key; allowed here: hz"),
        ("npz", {"hz": 20}, "data.options.hz = 20: unknown key; allowed here: none by 'npz'"),
    ):
        with pytest.raises(ConfigError) as caught:
            source(Data(kind=kind, options=options), installed)
        assert caught.value.problems[0].startswith(said)
        assert len(caught.value.problems) == 1
