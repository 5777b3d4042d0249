"""Federated ranges of a finished run: by real messages, of the others, near the windows' own."""

import json

import numpy as np
import pytest

from edge_kernels.quantize import calibrate
from edge_kernels.quantize.quantizer import inputs
from edge_kernels.quantize.reader import read
from simulations.personal_model import open_models
from simulations.ranges import FederatedRanges, Histograms
from simulations.report.files import RunError


@pytest.fixture(scope="module")
def models(finished_run):
    with open_models(finished_run) as opened:
        yield opened


@pytest.fixture(scope="module")
def federated(models):
    return FederatedRanges(models, Histograms(bins=256, method="minmax"))


def seen_by(models, name):
    """Smallest and largest of each value over a person's training windows, in the own model."""
    personal = models.personal(name)
    split = read(personal.model)
    x = inputs(split, personal.windows.train.astype(np.float32))
    return calibrate.ranges(split.net, x)


def test_a_person_s_ranges_are_those_of_the_other_clients(models, federated):
    own = {name: seen_by(models, name) for name in models.world.persons.values()}
    bounds = np.array(federated._survey.bounds)
    for left_out in (*own, None):
        found = np.array(federated.of(left_out))
        others = [each for name, each in own.items() if name != left_out]
        low, high = np.array(others).transpose(2, 1, 0)
        low, high = low.min(1), high.max(1)
        width = (bounds[:, 1] - bounds[:, 0]) / 256 + 1e-4
        assert (np.abs(found[:, 0] - np.maximum(low, bounds[:, 0])) <= width).all()
        assert (np.abs(found[:, 1] - np.minimum(high, bounds[:, 1])) <= width).all()


def test_an_unseen_person_is_served_by_all_clients_and_tells_nothing(models, federated):
    (unseen,) = models.world.unseen.values()
    assert federated.of(unseen) == federated.of(None)
    assert set(federated._sent) == set(models.world.persons.values())


def test_without_any_counts_there_are_no_ranges(models):
    nobody = FederatedRanges(models)
    nobody._sent = {}
    with pytest.raises(RunError, match="federated ranges: no device told its counts"):
        nobody.of(None)


def test_a_bundle_with_federated_ranges(sim, finished_run, models, tmp_path):
    person, out = models.persons[0], tmp_path / "a.flwb"
    arguments = ("--person", person, "--quantizer", "rtn", "--format", "json", "--out", out)
    code, said, _ = sim("export", finished_run, *arguments, "--ranges", "federated")
    assert code == 0
    told = json.loads(said)
    assert told["ranges"] == "federated"
    assert abs(told["f1"] - told["f1_float"]) < 0.1
    federated = out.read_bytes()
    assert sim("export", finished_run, *arguments)[0] == 0
    assert out.read_bytes() != federated


def test_noise_without_counts_to_hide_is_refused(sim, finished_run, models, tmp_path):
    code, _, lines = sim(
        "export", finished_run, "--person", models.persons[0], "--out", tmp_path / "x",
        "--noise", 0.1,
    )  # fmt: skip
    assert code == 2
    assert "--noise 0.1: only --ranges federated has counts to hide" in lines[-1]


def test_both_are_compared(sim, finished_run, models):
    code, said, _ = sim(
        "quantized", finished_run, "--quantizer", "rtn", "--bits", 8, "--person",
        models.persons[0], "--ranges", "sources", "--ranges", "federated", "--format", "json",
    )  # fmt: skip
    assert code == 0
    rows = json.loads(said)["rows"]
    assert [row["ranges"] for row in rows] == ["sources", "federated"]
    assert all(abs(row["difference"]) < 0.1 for row in rows)
