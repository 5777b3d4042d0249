"""The personal model's mix against a slow, plain computation; and its exported graphs."""

import numpy as np
import pytest
import torch
from torch.nn.functional import softmax

from hypernet.export import step_graph, update_graph
from hypernet.networks.inputs import InputSpec
from hypernet.networks.personal import Mixing, PersonalModel
from hypernet.parameters import ParameterSpec, vector_of

SPEC = InputSpec(20, 6, ((0, 1, 2), (3, 4, 5)))
CLASSES, SOURCES, LATENT = 3, 4, 5


def model(mixing: Mixing | None = None) -> PersonalModel:
    torch.manual_seed(0)
    network = PersonalModel(SPEC, CLASSES, SOURCES, 4, LATENT, mixing).eval()
    network.base.normal_()
    network.whiten.copy_(torch.randn(LATENT, LATENT))
    return network


@pytest.fixture
def person() -> tuple[torch.Tensor, ...]:
    x = torch.randn(40, SPEC.time, SPEC.channels, generator=torch.Generator().manual_seed(1))
    y = torch.full((40,), -1)
    y[::7] = torch.arange(6) % CLASSES
    return (x, y, *SPEC.statistics(x))


def slow_mix(network: PersonalModel, x, y, mean, deviation):
    """One class and one window at a time, as the docstring says it."""
    mixing = network.mixing
    z = network.encode(x, mean, deviation)
    white = z @ network.whiten
    probable = softmax(network.head(z), 1).clone()
    for _ in range(mixing.iterations):
        for row, label in enumerate(y.tolist()):
            if label >= 0:
                probable[row] = torch.eye(CLASSES)[label]
        centres = []
        for c in range(CLASSES):
            weights = [
                float(probable[i, c]) * (mixing.label_weight if y[i] >= 0 else 1.0)
                for i in range(len(x))
            ]
            count = sum(weights)
            total = sum(w * white[i] for i, w in enumerate(weights))
            pooled = network.base[:, c].mean(0)
            mine = (mixing.prior_windows * pooled + total) / (mixing.prior_windows + count)
            far = torch.stack([(mine - b).square().sum() for b in network.base[:, c]])
            share = softmax(-far / mixing.sharpness, 0)
            prior = sum(s * b for s, b in zip(share, network.base[:, c], strict=True))
            centres.append((mixing.kappa * prior + total) / (mixing.kappa + count))
        mu = torch.stack(centres)
        generative = white @ mu.T - 0.5 * mu.square().sum(1)
        blended = mixing.blend * generative + (1 - mixing.blend) * network.head(z)
        probable = softmax(blended, 1)
    return probable


@torch.no_grad()
def test_mixing_equals_the_slow_computation(person):
    network = model(Mixing(iterations=4, kappa=3.0, sharpness=2.0, label_weight=2.5))
    expected = slow_mix(network, *person)
    found = network.mix(*person)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    x, _, mean, deviation = person
    torch.testing.assert_close(
        network.posteriors(x, mean, deviation), expected, rtol=1e-4, atol=1e-5
    )


def without_a_class(mixing: Mixing, lacking=(2,)) -> PersonalModel:
    """Three classes, the last of which no source has: its base models are zeros."""
    torch.manual_seed(0)
    network = PersonalModel(SPEC, CLASSES, SOURCES, 4, LATENT, mixing, lacking).eval()
    network.base.normal_()
    network.base[:, 2] = 0
    return network


@torch.no_grad()
def test_a_class_that_no_source_has_is_no_prior(person):
    """Without a label of it, the head's row stands; with labels, their mean, not drawn to zero."""
    x, y, mean, deviation = person
    network = without_a_class(Mixing(iterations=3, kappa=5.0, blend=1.0))
    network.mix(x, torch.where(y == 2, -1, y), mean, deviation)
    torch.testing.assert_close(network.mixed_weight[2], network.head.weight[2])
    torch.testing.assert_close(network.mixed_bias[2], network.head.bias[2])
    assert not torch.allclose(network.mixed_weight[0], network.head.weight[0])
    network.mix(*person)
    white = network.encode(x, mean, deviation) @ network.whiten
    torch.testing.assert_close(
        network.mixed_weight[2] @ torch.linalg.inv(network.whiten.T), white[y == 2].mean(0)
    )


@torch.no_grad()
def test_other_classes_are_mixed_as_if_a_lacking_one_were_not_there(person):
    x, y, mean, deviation = person
    y = torch.where(y == 2, -1, y)
    network = without_a_class(Mixing(iterations=1, kappa=5.0))
    zeros = without_a_class(Mixing(iterations=1, kappa=5.0), ())
    network.mix(x, y, mean, deviation)
    zeros.mix(x, y, mean, deviation)
    torch.testing.assert_close(network.mixed_weight[:2], zeros.mixed_weight[:2])
    assert not torch.allclose(network.mixed_weight[2], zeros.mixed_weight[2])
    assert "lacking=(2,)" in repr(network), "graphs are kept by it"
    assert "lacking" not in repr(zeros)


def test_the_exported_mix_of_a_lacking_class_equals_torch(person, run):
    x, y, mean, deviation = person
    network = without_a_class(Mixing(iterations=2))
    start = vector_of(network)
    (found,) = run(
        update_graph(network, "mix"),
        windows=x,
        labels=y,
        input_mean=mean,
        input_deviation=deviation,
        weights=start,
    )
    with torch.no_grad():
        network.mix(*person)
    np.testing.assert_allclose(found, vector_of(network).numpy(), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_without_iterations_the_sources_head_predicts(person):
    network = model(Mixing(iterations=0))
    network.mix(*person)
    x, _, mean, deviation = person
    z = network.encode(x, mean, deviation)
    torch.testing.assert_close(network(x, mean, deviation), network.head(z))


@torch.no_grad()
def test_a_strong_prior_keeps_the_base_models(person):
    network = model(Mixing(kappa=1e9, sharpness=1e9, blend=1.0))
    network.mix(*person)
    centre = network.base.mean(0)
    expected = centre @ network.whiten.T
    torch.testing.assert_close(network.mixed_weight, expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_the_exported_mix_equals_torch(person, run):
    network = model()
    graph = update_graph(network, "mix")
    names = ("windows", "labels", "input_mean", "input_deviation")
    given = dict(zip(names, person, strict=True))
    (found,) = run(graph, **given, weights=vector_of(network))
    before = vector_of(network)
    network.mix(*person)
    np.testing.assert_allclose(found, vector_of(network).numpy(), atol=2e-5)
    spec = ParameterSpec.of(network)
    (moved,) = spec.ranges(lambda name: name.startswith("mixed"))
    unmoved = np.r_[0 : moved[0], moved[1] : spec.length]
    np.testing.assert_array_equal(found[unmoved], before.numpy()[unmoved])


def test_tuning_learns_from_labels_and_from_fixed_targets(person, run):
    network = model()
    x, y, mean, deviation = person
    targets = torch.rand(40, CLASSES).softmax(1)
    graph = step_graph(network, "tuning_loss", "sgd", labels=True, targets=CLASSES)
    spec = ParameterSpec.of(network)
    size = spec.trainable_length
    before = vector_of(network)
    loss, after, _ = run(
        graph,
        windows=x,
        labels=y,
        targets=targets,
        input_mean=mean,
        input_deviation=deviation,
        learning_rate=0.1,
        proximal=0.0,
        anchor=before[:size],
        mask=np.ones(size),
        weights=before,
        state=np.zeros(size),
    )
    logits = network.head(network.encode(x, mean, deviation)).log_softmax(1)
    known = y >= 0
    hard = -logits[known, y[known]].mean()
    soft = -(targets * logits).sum(1)[~known].mean()
    assert float(loss) == pytest.approx(float((hard + soft).detach()), abs=1e-5)
    gradient = torch.autograd.grad(hard + soft, network.head.weight)[0]
    moved = spec.unflatten(torch.from_numpy(after))
    torch.testing.assert_close(
        moved["head.weight"], network.head.weight - 0.1 * gradient, rtol=1e-4, atol=1e-6
    )
    assert float(moved["tuned"]) == 1.0


@torch.no_grad()
def test_a_tuned_model_predicts_with_its_own_head(person):
    network = model()
    network.mix(*person)
    x, _, mean, deviation = person
    mixed = network(x, mean, deviation)
    network.tuned.fill_(1)
    z = network.encode(x, mean, deviation)
    assert not torch.equal(network(x, mean, deviation), mixed)
    torch.testing.assert_close(network(x, mean, deviation), network.head(z))
