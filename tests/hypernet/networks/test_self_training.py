"""Self-training's steps, its guards, and its exported graphs against torch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession

from hypernet.bouts import smooth
from hypernet.export import step_graph, targets_graph, update_graph
from hypernet.networks.inputs import InputSpec
from hypernet.networks.personal import Mixing
from hypernet.networks.self_training import (
    Bouts,
    SelfTraining,
    diversity,
    even_bias,
    persistence,
)
from hypernet.parameters import ParameterSpec, vector_of

SPEC = InputSpec(20, 6, ((0, 1, 2), (3, 4, 5)))
CLASSES, SOURCES, LATENT, WINDOWS = 3, 2, 5, 36
BOUTS = Bouts(guard=0.0, order=-2.0, levels=6)


def model(bouts: Bouts = BOUTS, iterations: int = 1) -> SelfTraining:
    torch.manual_seed(0)
    network = SelfTraining(SPEC, CLASSES, SOURCES, 4, LATENT, Mixing(iterations), bouts).eval()
    network.base.normal_()
    network.replay.normal_().abs_()
    return network


def person(windows: int = WINDOWS, labelled: int = 4):
    x = torch.randn(windows, SPEC.time, SPEC.channels, generator=torch.Generator().manual_seed(1))
    y = torch.full((windows,), -1)
    y[:: -(-windows // labelled)] = 1
    return (x, y, *SPEC.statistics(x))


def learnt(network, targets, *, last=False, labelled=4):
    """Loss and gradients."""
    x, y, mean, deviation = person(labelled=labelled)
    loss = (network.learn_last if last else network.learn)(x, y, targets, mean, deviation)
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in network.named_parameters() if p.grad is not None}


@torch.no_grad()
def test_targets_are_smoothed_posteriors_with_labels_clamped_and_the_mix():
    network = model()
    x, y, mean, deviation = person()
    scores = BOUTS.evidence * network(x, mean, deviation).log_softmax(1)
    known = y >= 0
    scores[known] = torch.where(torch.arange(CLASSES) == y[known, None], 0.0, -1e4)
    expected = smooth(scores, torch.tensor(BOUTS.stay))
    probable, mix = network.teach(x, y, mean, deviation).chunk(2, 1)
    torch.testing.assert_close(probable, expected, rtol=1e-4, atol=1e-6)
    assert (probable[known, 1] == 1).all()
    by_class = (expected.mean(0) + BOUTS.floor / CLASSES).log()
    torch.testing.assert_close(mix, by_class.expand(WINDOWS, CLASSES))


def test_the_loss_is_logit_adjusted_and_labels_count_more():
    network = model(replace(BOUTS, replay=0.0, label_weight=3.0))
    x, y, mean, deviation = person()
    targets = network.teach(x, y, mean, deviation).detach()
    probable, mix = targets.chunk(2, 1)
    logits = network.head(network.encode(x, mean, deviation)) + mix
    each = torch.nn.functional.cross_entropy(logits, probable, reduction="none")
    expected = (each * torch.where(y >= 0, 3.0, 1.0)).mean()
    loss, _ = learnt(network, targets)
    torch.testing.assert_close(loss, expected.detach())


def test_the_last_layers_learn_alone_with_the_same_loss_and_gradient():
    network, other = model(), model()
    targets = network.teach(*person()).detach()
    loss, whole = learnt(network, targets)
    same, last = learnt(other, targets, last=True)
    torch.testing.assert_close(loss, same)
    convolutions = {name for name in whole if name.startswith(("encoder.conv", "encoder.norm"))}
    assert set(whole) - set(last) == convolutions - {"encoder.norm4.weight", "encoder.norm4.bias"}
    for name, gradient in last.items():
        torch.testing.assert_close(gradient, whole[name])


def test_class_means_of_the_sources_pull_where_something_is_taught():
    with_them, without = model(), model(replace(BOUTS, replay=0.0))
    targets = without.teach(*person()).detach()
    plain, _ = learnt(without, targets)
    more, _ = learnt(with_them, targets)
    with torch.no_grad():
        logits = with_them.head(with_them.encoder.project(with_them.replay.flatten(0, 1)))
    truth = torch.arange(CLASSES).repeat(SOURCES)
    pull = BOUTS.replay * torch.nn.functional.cross_entropy(logits, truth)
    torch.testing.assert_close(more - plain, pull)


def lacking_model(**bouts) -> SelfTraining:
    """As ``model``, of sources none of which has class 2."""
    torch.manual_seed(0)
    made = replace(BOUTS, **bouts)
    network = SelfTraining(SPEC, CLASSES, SOURCES, 4, LATENT, Mixing(2), made, (2,)).eval()
    network.base.normal_()
    network.replay.normal_().abs_()
    network.base[:, 2], network.replay[:, 2] = 0, 0
    return network


def test_a_class_that_no_source_has_is_not_remembered():
    network = lacking_model()
    targets = network.teach(*person()).detach()
    plain, _ = learnt(lacking_model(replay=0.0), targets)
    more, _ = learnt(network, targets)
    with torch.no_grad():
        logits = network.head(network.encoder.project(network.replay[:, :2].flatten(0, 1)))
    truth = torch.arange(2).repeat(SOURCES)
    pull = BOUTS.replay * torch.nn.functional.cross_entropy(logits, truth)
    torch.testing.assert_close(more - plain, pull)
    assert "lacking=(2,)" in repr(network), "graphs are kept by it"


@torch.no_grad()
def test_prototypes_leave_a_class_that_nobody_has_told_of_as_it_is():
    network = lacking_model()
    network.prototypes(*person())
    assert not network.shift_weight[2].any()
    assert not network.shift_bias[2].any()
    assert network.shift_weight[:2].any(1).all()


def test_exported_steps_do_not_remember_a_lacking_class(run):
    network, (x, y, mean, deviation) = lacking_model(), person()
    targets = network.teach(x, y, mean, deviation).detach()
    spec = ParameterSpec.of(network)
    size, start = spec.trainable_length, vector_of(network)
    loss, *_ = run(
        step_graph(network, "learn_last", "sgd", labels=True, targets=2 * CLASSES),
        windows=x,
        labels=y,
        targets=targets,
        input_mean=mean,
        input_deviation=deviation,
        learning_rate=0.1,
        proximal=0.0,
        anchor=start[:size],
        mask=np.ones(size),
        weights=start,
        state=np.zeros(size),
    )
    assert loss == pytest.approx(float(learnt(network, targets)[0]), rel=1e-4)


def test_prototypes_teach_and_then_the_head_learns_alone():
    network = model()
    before = network(*person()[:1], *person()[2:]).detach()
    with torch.no_grad():
        network.prototypes(*person())
    x, _, mean, deviation = person()
    assert not torch.allclose(network(x, mean, deviation), before)
    learnt(network, network.teach(*person()).detach())
    torch.testing.assert_close(network(x, mean, deviation), before)  # no step was taken


REFUSED = {
    "classes are missing": (replace(BOUTS, guard=1.01), person()),
    "windows are in no order": (replace(BOUTS, order=0.9), person()),
    "one window": (replace(BOUTS, guard=0.7), person(1, 1)),
    "one class alone": (replace(BOUTS, guard=0.7), person(labelled=WINDOWS)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_pool_that_would_teach_wrong_things_teaches_nothing(case):
    bouts, given = REFUSED[case]
    network = model(bouts)
    with torch.no_grad():
        network.prototypes(*given)
    shift = network.shift_weight.clone()
    targets = network.teach(*given).detach()
    assert not targets.any()
    x, y, mean, deviation = given
    loss = network.learn(x, y, targets, mean, deviation)
    loss.backward()
    assert loss == 0
    assert not any(p.grad.any() for p in network.parameters() if p.grad is not None)
    assert torch.equal(network.shift_weight, shift)


def test_nan_is_not_hidden():
    network = model()
    x, y, mean, deviation = person()
    x[3, 0, 0] = torch.nan
    assert network.teach(x, y, mean, deviation).isnan().any()


def test_diversity_counts_classes():
    even = torch.full((10, 4), 0.25)
    assert diversity(even) == pytest.approx(1.0)
    half = torch.eye(4)[torch.arange(10) % 2]
    assert diversity(half) == pytest.approx(0.5)


def test_persistence_tells_bouts_from_disorder():
    bouts = torch.eye(4)[torch.arange(400) // 20 % 4]
    assert persistence(bouts) == pytest.approx(1 - 19 / 300, abs=1e-3)  # 19 of 399 changes
    disorder = bouts[torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    assert abs(float(persistence(disorder))) < 0.15


def test_a_bias_makes_the_mean_posterior_even_where_every_class_occurs():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 4, generator=generator) + torch.tensor([2.0, 0, 0, -1])
    shares = (logits + even_bias(logits)).softmax(1).mean(0)
    torch.testing.assert_close(shares, torch.full((4,), 0.25), rtol=0.02, atol=0)


@torch.no_grad()
def test_known_to_be_balanced_the_targets_are_even():
    mixes = []
    for balanced in (False, True):
        network = model(replace(BOUTS, balanced=balanced, stay=0.0))
        network.head.bias.copy_(torch.tensor([2.0, 0.0, -1.0]))
        x, y, mean, deviation = person()
        mixes.append(network.teach(x, torch.full_like(y, -1), mean, deviation)[:, :3].mean(0))
    assert mixes[0].max() > 0.6
    torch.testing.assert_close(mixes[1], torch.full((3,), 1 / 3), rtol=0.02, atol=0)


def run(graph: bytes, **inputs):
    session = InferenceSession(graph, providers=["CPUExecutionProvider"])
    return session.run(None, {name: np.asarray(value) for name, value in inputs.items()})


@torch.no_grad()
@pytest.mark.parametrize("stay", [0.0, 0.95])
def test_neighbours_that_are_alike_are_fewer_witnesses(stay):
    whole, share = (model(replace(BOUTS, stay=stay, evidence=each)) for each in (1.0, 0.2))
    x, y, mean, deviation = person()
    sure, less = (
        each.teach(x, torch.full_like(y, -1), mean, deviation)[:, :3].amax(1).mean()
        for each in (whole, share)
    )
    assert (less < sure) == (stay > 0)
    assert stay or less == sure


@torch.no_grad()
def test_exported_targets_are_exact_for_streams_of_any_length():
    network = model(replace(BOUTS, levels=2))
    graph = targets_graph(network, "teach")
    for windows in (1, 4):
        x, y, mean, deviation = person(windows, 1)
        inputs = {"windows": x, "labels": y, "input_mean": mean, "input_deviation": deviation}
        found = run(graph, **inputs, weights=vector_of(network))[0]
        expected = network.teach(x, y, mean, deviation).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.study
@torch.no_grad()
def test_exported_targets_of_a_long_stream_with_even_classes_are_exact():
    network = model(replace(BOUTS, balanced=True, levels=11))
    graph = targets_graph(network, "teach")
    x, y, mean, deviation = person(1500)
    inputs = {"windows": x, "labels": y, "input_mean": mean, "input_deviation": deviation}
    found = run(graph, **inputs, weights=vector_of(network))[0]
    expected = network.teach(x, y, mean, deviation).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_exported_prototypes_set_the_shift_and_nothing_else():
    network = model(replace(BOUTS, levels=2))
    x, y, mean, deviation = person(4, 1)
    inputs = {"windows": x, "labels": y, "input_mean": mean, "input_deviation": deviation}
    found = run(update_graph(network, "prototypes"), **inputs, weights=vector_of(network))[0]
    network.prototypes(x, y, mean, deviation)
    np.testing.assert_allclose(found, vector_of(network).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", [pytest.param("learn", marks=pytest.mark.study), "learn_last"])
def test_an_exported_step_is_adams(loss):
    network = model()
    x, y, mean, deviation = person()
    targets = network.teach(x, y, mean, deviation).detach()
    size, vector = ParameterSpec.of(network).trainable_length, vector_of(network)
    rate, zero = np.float32(1e-2), np.zeros(size, np.float32)
    _, found, _ = run(
        step_graph(network, loss, "adam", labels=True, targets=2 * CLASSES),
        windows=x,
        labels=y,
        targets=targets,
        input_mean=mean,
        input_deviation=deviation,
        learning_rate=rate,
        proximal=np.float32(0),
        anchor=zero,
        mask=zero + 1,
        weights=vector,
        state=np.zeros(2 * size + 1, np.float32),
    )
    adam = torch.optim.Adam(network.parameters(), float(rate))
    learnt(network, targets, last=loss == "learn_last")
    adam.step()
    np.testing.assert_allclose(found, vector_of(network).numpy(), rtol=1e-3, atol=1e-4)
