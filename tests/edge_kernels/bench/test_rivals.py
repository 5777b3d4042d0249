"""Who is compared with whom."""

import numpy as np
import onnxruntime
import pytest

from edge_kernels.bench.rivals import FLOAT, RIVALS, Rival, absent, best_of, comparable
from edge_kernels.bench.sessions import rival_session

TWO = {"MatMulNBits 2", "MatMulNBits 2 lut"}


@pytest.mark.parametrize(
    ("bits", "names"),
    [
        (1, TWO),
        ("ternary", TWO),
        (2, TWO | {"MatMulNBits 4"}),
        (3, {"MatMulNBits 4"}),
        (4, {"MatMulNBits 4", "MatMulNBits 8", "DynamicQuantizeMatMul"}),
    ],
)
def test_rivals_are_of_the_same_or_the_next_higher_width(bits, names):
    assert comparable(bits) == names


def test_the_best_is_the_fastest_of_the_comparable():
    medians = {"MatMul fp32": 1.0, "MatMulNBits 4": 3.0, "MatMulNBits 8": 2.0}
    assert best_of(4, medians) == "MatMulNBits 8"
    assert best_of(3, medians) == "MatMulNBits 4"
    assert best_of(1, medians) is None


@pytest.mark.parametrize("group", [32, 64, 128])
def test_rivals_get_the_same_group(group):
    assert {rival.block(256, group) for rival in RIVALS} == {group}


def test_rivals_get_their_fastest_block_beside_a_scale_a_row():
    blocks = {rival.name: rival.block(4096, 0) for rival in RIVALS}
    assert blocks["MatMulNBits 2"] == 128
    assert blocks["MatMulNBits 2 lut"] == 256
    assert blocks["MatMulNBits 4"] == blocks["MatMulNBits 8"] == 4096
    assert Rival("MatMulNBits 4", 4).block(11008, 0) == 256


@pytest.mark.parametrize("rival", RIVALS, ids=lambda rival: rival.name)
@pytest.mark.parametrize("group", [64, 0])
def test_every_rival_runs_with_any_number_of_rows(rival, group):
    if absent(rival):
        pytest.skip(absent(rival))
    model = rival.graph(256, 128, group, np.random.default_rng(0))
    session = rival_session(rival, model, 1)
    for m in (1, 5):
        (y,) = session.run(None, {"x": np.ones((m, 256), np.float32)})
        assert y.shape == (m, 128)
        assert np.isfinite(y).all()


@pytest.mark.parametrize(("version", "there"), [("1.23.2", False), ("1.24.0", True)])
def test_lookup_tables_came_with_a_release(monkeypatch, version, there):
    monkeypatch.setattr(onnxruntime, "__version__", version)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    (lut,) = (rival for rival in RIVALS if rival.lut)
    assert (absent(lut) is None) == there
    assert absent(FLOAT) is None


def test_lookup_tables_are_for_x86(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    (lut,) = (rival for rival in RIVALS if rival.lut)
    assert absent(lut)
