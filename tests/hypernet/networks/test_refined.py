"""Prototype EM behind an adapter: the head moves to the person's class means, or stays."""

import numpy as np
import pytest
import torch

from hypernet.condition import CONDITIONERS
from hypernet.export import forward_graph, update_graph
from hypernet.latent import LatentSources
from hypernet.networks.personal import Mixing
from hypernet.networks.refined import RefinedClassifier
from hypernet.parameters import ParameterSpec, load_vector, vector_of

WIDTHS, CLASSES, LATENT = [4, 8, 8, 6], 3, 6


@pytest.fixture
def refined(network):
    def make(guard=0.0, iterations=2, blend=0.5, track=0.0, lacking=()):
        torch.manual_seed(2)
        base = torch.randn(2, CLASSES, LATENT)
        base[:, list(lacking)] = 0
        sources = LatentSources(torch.eye(LATENT), base, lacking)
        return RefinedClassifier(
            network("classifier"),
            "lora",
            2,
            0.5,
            CONDITIONERS["prototypes"](WIDTHS, CLASSES, 0.0),
            layers="last",
            mixing=Mixing(iterations=iterations, kappa=5.0, blend=blend),
            sources=sources,
            guard=guard,
            track=track,
        ).eval()

    return make


@pytest.fixture
def person(spec, windows):
    x = torch.from_numpy(windows(12))
    y = torch.full((12,), -1)
    y[0] = 2
    return x, y, *spec.statistics(x)


def moved(made):
    vector, spec = vector_of(made), ParameterSpec.of(made)
    torch.manual_seed(3)
    vector[: spec.trainable_length] += torch.randn(spec.trainable_length)
    load_vector(made, vector)
    return vector


def test_before_em_it_is_the_adapted_classifier(refined, network, person):
    x, _, mean, deviation = person
    plain = network("classifier").eval()(x, mean, deviation)
    torch.testing.assert_close(refined()(x, mean, deviation), plain)


@torch.no_grad()
@pytest.mark.parametrize("track", [0.0, 0.5])
def test_a_class_that_no_source_has_keeps_its_row_until_it_is_labelled(refined, person, track):
    x, y, mean, deviation = person
    made = refined(lacking=(2,), track=track)
    for _ in range(2):  # days
        made.prototypes(x, torch.full_like(y, -1), mean, deviation)
        assert not made.shift_weight[2].any()
        assert not made.shift_bias[2].any()
        assert made.shift_weight[:2].any(1).all()
    made.prototypes(x, y, mean, deviation)
    z, (weight, bias) = made.encode(x, mean, deviation), made.body.head.merged()
    centre = z[0]
    torch.testing.assert_close(made.shift_weight[2], 0.5 * (centre - weight[2]))
    wanted = -0.5 * (0.5 * centre.square().sum() + bias[2])
    torch.testing.assert_close(made.shift_bias[2], wanted)
    assert "lacking=(2,)" in repr(made), "graphs are kept by it"


@torch.no_grad()
def test_the_head_is_mixed_with_that_of_the_class_means(refined, person):
    x, y, mean, deviation = person
    made = refined(iterations=1, blend=1.0)
    moved(made)
    z = made.encode(x, mean, deviation)
    probable = made.body.head(z).softmax(1)
    probable[0] = torch.eye(CLASSES)[2]
    weight = probable * torch.where(y >= 0, made.mixing.label_weight, 1.0)[:, None]
    count = weight.sum(0)[:, None]
    person_mean = (5 * made.base.mean(0) + weight.T @ z) / (5 + count)
    share = (-(person_mean - made.base).square().sum(2) / made.mixing.sharpness).softmax(0)
    centres = (5 * (share[..., None] * made.base).sum(0) + weight.T @ z) / (5 + count)
    made.prototypes(x, y, mean, deviation)
    wanted = z @ centres.T - centres.square().sum(1) / 2
    torch.testing.assert_close(made(x, mean, deviation), wanted, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_where_classes_are_missing_the_head_stays(refined, person):
    x, y, mean, deviation = person
    made = refined(guard=1.0)
    moved(made)
    before = made(x, mean, deviation)
    made.prototypes(x, y, mean, deviation)
    assert torch.equal(made(x, mean, deviation), before)
    assert not made.shift_weight.any()


@torch.no_grad()
def test_the_first_day_is_as_without_tracking(refined, person):
    x, y, mean, deviation = person
    plain, made = refined(), refined(track=0.5)
    plain.prototypes(x, y, mean, deviation)
    made.prototypes(x, y, mean, deviation)
    torch.testing.assert_close(made(x, mean, deviation), plain(x, mean, deviation))
    assert made.own_days.item() == 1
    head, _ = made.body.head.merged()
    shift = made.mixing.blend * (made.own_centres @ made.whiten.T - head)
    torch.testing.assert_close(made.shift_weight, shift)


@torch.no_grad()
def test_later_days_start_from_the_device_s_own(refined, person):
    x, y, mean, deviation = person
    made = refined(iterations=1, blend=1.0, track=0.25)
    own = torch.randn(CLASSES, LATENT)
    made.own_centres, made.own_days = own.clone(), torch.ones(1)
    z = made.encode(x, mean, deviation)
    yesterday = (z @ own.T - own.square().sum(1) / 2).softmax(1)
    probable = (made.body.head(z).softmax(1) + yesterday) / 2
    probable[0] = torch.eye(CLASSES)[2]
    weight = probable * torch.where(y >= 0, made.mixing.label_weight, 1.0)[:, None]
    centres = (5 * own + weight.T @ z) / (5 + weight.sum(0)[:, None])
    made.prototypes(x, y, mean, deviation)
    wanted = z @ centres.T - centres.square().sum(1) / 2
    torch.testing.assert_close(made(x, mean, deviation), wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(made.own_centres, 0.25 * own + 0.75 * centres)
    assert made.own_days.item() == 2


@torch.no_grad()
def test_a_day_that_lacks_classes_carries_nothing(refined, person):
    x, y, mean, deviation = person
    made = refined(guard=1.0, track=0.5)
    own = torch.randn(CLASSES, LATENT)
    made.own_centres, made.own_days = own.clone(), torch.ones(1)
    before = made(x, mean, deviation)
    made.prototypes(x, y, mean, deviation)
    assert torch.equal(made.own_centres, own)
    assert made.own_days.item() == 1
    assert torch.equal(made(x, mean, deviation), before)


@pytest.mark.parametrize("track", [0.0, 0.5])
@torch.no_grad()
def test_a_device_runs_the_same(refined, person, run, track):
    x, y, mean, deviation = person
    made = refined(track=track)
    vector = moved(made)
    if track:
        vector[-1] = 1  # its second day
        load_vector(made, vector)
    inputs = {"input_mean": mean, "input_deviation": deviation}
    graph = update_graph(made, "prototypes")
    (found,) = run(graph, windows=x, labels=y, weights=vector, **inputs)
    made.prototypes(x, y, mean, deviation)
    np.testing.assert_allclose(found, vector_of(made), rtol=1e-3, atol=1e-4)
    assert np.array_equal(found[: made_length(made)], vector[: made_length(made)])
    (logits,) = run(forward_graph(made, "forward"), windows=x, weights=found, **inputs)
    np.testing.assert_allclose(logits, made(x, mean, deviation), rtol=1e-3, atol=1e-3)


def made_length(made):
    return ParameterSpec.of(made).trainable_length


def test_graphs_are_named_by_their_constants(refined):
    one, other = refined(), refined()
    assert repr(one) == repr(other)
    assert repr(one) != repr(refined(track=0.5))
    other.base.add_(1)
    assert repr(one) != repr(other)
