"""Small products from end to end; nothing is said of how fast."""

import pytest

from edge_kernels.bench.kernels import LOOKUP_ROWS, Sizes, measure
from edge_kernels.bench.timing import Effort

LEAST = Effort(rounds=2, turn_seconds=1e-4, most_calls=2)
SIZES = Sizes(shapes=((128, 64),), bits=(1, 4, "ternary"), groups=(64, 0), m=(1, 20), threads=(1,))


@pytest.fixture(scope="module")
def report():
    return measure(SIZES, LEAST)


def test_a_row_for_each_combination_and_fast_where_tables_are_used(report):
    found = [(row.m, row.group, row.bits, row.fast) for row in report.rows]
    assert len(set(found)) == len(found)
    exact = {(m, g, b, False) for m in (1, 20) for g in (64, 0) for b in (1, 4, "ternary")}
    fast = {(1, g, b, True) for g in (64, 0) for b in (1, "ternary")}
    assert LOOKUP_ROWS < 20
    assert set(found) == exact | fast
    assert {(row.n, row.k, row.threads) for row in report.rows} == {(128, 64, 1)}


def test_ratios_are_those_of_the_medians(report):
    for row in report.rows:
        assert row.ratio_to_floor == row.microseconds / row.floor_microseconds
        assert row.spread[0] <= row.microseconds <= row.spread[1]
        if row.best_rival:
            best = row.rivals[row.best_rival] / row.microseconds
            assert row.speedup_over_best_rival == best
            plain = row.rivals[row.best_rival] / row.plain_run_microseconds
            assert row.plain_run_speedup == plain
        assert set(row.rivals) == set(row.rivals_spread)
        assert {"MatMul fp32", "DynamicQuantizeMatMul"} <= set(row.rivals)


def test_the_products_are_right(report):
    for row in report.rows:
        assert row.relative_rms_error < (5e-2 if row.fast else 1.5e-2), row


def test_a_wrong_product_is_no_result(monkeypatch):
    from edge_kernels.bench import kernels

    monkeypatch.setattr(kernels, "relative_rms", lambda *_: float("nan"))
    with pytest.raises(RuntimeError, match=r"LutMatMul .*bits=2.* is wrong"):
        measure(Sizes(((64, 64),), (2,), (64,), (1,), (1,)), LEAST)


def test_it_says_what_it_does():
    said = []
    measure(Sizes(((64, 64),), (2,), (64,), (1,), (1, 2)), LEAST, said.append)
    assert said[0].startswith("64x64")
    assert any("2 threads" in line for line in said)


def test_a_rival_that_does_not_load_is_left_out(monkeypatch):
    from edge_kernels.bench import kernels

    def refuse(rival, model, threads):
        raise RuntimeError(f"no {rival.name}\nand more")

    monkeypatch.setattr(kernels, "rival_session", refuse)
    report = measure(Sizes(((64, 64),), (2,), (64,), (1,), (1,)), LEAST)
    assert report.left_out["MatMulNBits 4"] == "no MatMulNBits 4"
    for row in report.rows:
        assert (row.rivals, row.best_rival, row.speedup_over_best_rival) == ({}, None, None)
