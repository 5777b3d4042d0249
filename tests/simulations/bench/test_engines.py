import re
from pathlib import Path

import numpy as np
import pytest

from schemas.base import ConfigError
from simulations.bench import compare, flat_regression
from simulations.bench.app import load_step
from simulations.bench.engines import plan_of


def test_the_step_is_that_of_the_formula(tmp_path: Path) -> None:
    workload = flat_regression(length=50, batch=4)
    plan = plan_of(workload, tmp_path)
    step = load_step(plan["graph"])
    weights = workload.weights()
    x, y = workload.feeds["x"], workload.feeds["y"]
    expected = weights - np.float32(1e-4) * ((x @ weights - y) @ x)
    loss, got = step.run(weights, 1)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert loss == pytest.approx(float(np.mean((x @ weights - y) ** 2)), rel=1e-5)


def test_local_and_floor_are_measured() -> None:
    rows = compare(
        flat_regression(length=100), 4, 2, repeats=1, rounds=1, engines=("local", "floor")
    )
    assert [row["engine"] for row in rows] == ["local", "floor"]
    assert all(row["min"] <= row["updates_per_second"] <= row["max"] for row in rows)
    assert rows[1]["ratio_to_floor"] == 1.0


def test_without_ray_a_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulations.bench.engines.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'flwr-edge[ray]'")):
        compare(flat_regression(length=100), 4, 2, repeats=1, rounds=1)


@pytest.mark.study
def test_ray_is_measured() -> None:
    rows = compare(flat_regression(), 10, 2, repeats=1, rounds=1)
    assert rows[0]["ratio_to_ray"] > 1
