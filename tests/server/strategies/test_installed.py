"""Strategies of other people: a broken one is named, and ends nothing but its own runs."""

from pathlib import Path

import pytest

from server.strategies.installed import GROUP, StrategyError, about, check, strategies

THEIRS = """
from flwr.serverapp import strategy as flower
from server.strategies.averaging import FedAvg
from server.strategies.base import EdgeStrategy
loaded = True
class Own(flower.FedMedian, FedAvg): pass
class Half(EdgeStrategy): Parameters = FedAvg.Parameters
class Bare(flower.FedAvg, EdgeStrategy):
    def initial(self): return None
"""
POINTS = {
    "own": "others_strategy:Own",
    "gone": "others_gone:Own",
    "angry": "others_angry:Own",
    "plain": "flwr.serverapp.strategy:FedAvg",
    "half": "others_strategy:Half",
    "bare": "others_strategy:Bare",
}
WRONG = {
    "gone": "gone: cannot be loaded: ModuleNotFoundError: No module named 'others_gone'",
    "angry": "angry: cannot be loaded: ZeroDivisionError: division by zero",
    "plain": "plain: is no EdgeStrategy",
    "half": "half: does not define aggregate_evaluate, aggregate_train, configure_evaluate",
    "bare": "bare: has no class Parameters",
}


@pytest.fixture(autouse=True)
def _others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution of somebody else beside ours."""
    info = tmp_path / "others-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in POINTS.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines]))
    (tmp_path / "others_strategy.py").write_text(THEIRS)
    (tmp_path / "others_angry.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_only_those_that_can_be_used_are_listed_and_the_others_have_a_reason():
    known = strategies()
    assert "own" in known
    assert {"fedavg", "semipfl", "own"} <= set(known)
    assert not WRONG.keys() & set(known)
    assert len(known) == len(list(known)) == len(dict(known))
    said = known.problems()
    assert len(said) == len(WRONG)
    for name, text in WRONG.items():
        assert any(line.startswith(text) and POINTS[name] in line for line in said), name


@pytest.mark.parametrize("name", WRONG)
def test_one_that_a_file_names_is_refused_by_name(name):
    with pytest.raises(StrategyError) as caught:
        strategies()[name]
    assert str(caught.value).startswith(WRONG[name])
    _, (problem,) = check(strategies(), [("strategy", name)], {})
    assert problem.startswith(f"strategy = {name!r}: {WRONG[name].removeprefix(f'{name}: ')}")


def test_a_file_loads_what_it_names_and_nothing_else(monkeypatch):
    import sys

    monkeypatch.delitem(sys.modules, "others_strategy", raising=False)
    _, problems = check(strategies(), [("strategy", "fedavg")], {})
    assert not problems
    assert "others_strategy" not in sys.modules
    assert strategies()["own"]
    assert "others_strategy" in sys.modules
    assert strategies().problem("nobody") is None


def test_a_strategy_is_told_in_one_line() -> None:
    assert about(strategies()["source"]) == "The model trained on the sources, sent once."
    assert about(type("Plain", (strategies()["source"],), {"__doc__": None})) == ""
