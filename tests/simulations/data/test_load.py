import tomllib
from pathlib import Path

import pytest

from schemas.base import ConfigError
from schemas.simulation import Data
from simulations.data.base import DataError
from simulations.data.load import GROUP, source

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
        "from simulations.data.base import DataSource\n"
        "class Own(DataSource):\n"
        "    def load(self): return None\n"
        "none = 3\n"
    )
    theirs = {"own": "others_sets:Own", "none": "others_sets:none", "gone": "others_gone:Own"}
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
    assert (
        "data.kind = 'wach': no such data source; installed: days, gone, none, npz, own, uci-har"
        in (str(caught.value))
    )


def test_a_broken_one_is_named(installed: Path) -> None:
    with pytest.raises(DataError, match=r"'gone' \(others_gone:Own\) cannot be loaded"):
        source(Data(kind="gone"), installed)
    with pytest.raises(DataError, match=r"'none' .* is no DataSource"):
        source(Data(kind="none"), installed)
