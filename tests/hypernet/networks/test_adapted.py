"""A frozen classifier and its adapter: what travels, what is exported, what a condition is."""

import numpy as np
import pytest
import torch
from torch.func import functional_call

from hypernet import export
from hypernet.condition import CONDITIONERS
from hypernet.networks.adapted import AdaptedClassifier, version_of
from hypernet.networks.norm import norms, set_own
from hypernet.networks.transformer import TransformerEncoder
from hypernet.parameters import ParameterSpec, frozen_buffers, load_vector, vector_of

WIDTHS, CLASSES = [4, 8, 8, 6], 3  # of the tests' small classifier


@pytest.fixture
def adapted(network):
    def make(adapter="lora", condition="prototypes", clip=0.0):
        torch.manual_seed(2)
        conditioner = CONDITIONERS[condition](WIDTHS, CLASSES, clip)
        return AdaptedClassifier(network("classifier"), adapter, 2, 0.5, conditioner)

    return make


@pytest.fixture
def person(spec, windows):
    x = torch.from_numpy(windows(9))
    return x, *spec.statistics(x)


def moved(network):
    """Its vector with another adapter."""
    vector, spec = vector_of(network), ParameterSpec.of(network)
    torch.manual_seed(3)
    vector[: spec.trainable_length] += torch.randn(spec.trainable_length)
    return spec, vector


@pytest.mark.parametrize("adapter", ["lora", "bone", "compacter", "rows", "scale-shift"])
def test_it_starts_as_its_backbone_and_only_the_adapter_travels(adapter, adapted, network, person):
    made, backbone = adapted(adapter), network("classifier").eval()
    torch.testing.assert_close(made(*person), backbone(*person))
    spec = ParameterSpec.of(made)
    assert all(".norm" in name for name in spec.names[spec.trainable :])
    assert set(spec.names[spec.trainable :]).isdisjoint(frozen_buffers(made))
    spec, vector = moved(made)
    load_vector(made, vector)
    assert torch.equal(vector_of(made), vector)
    assert not torch.allclose(made(*person), backbone(*person))
    assert torch.equal(backbone.head.weight, made.body.head.weight)


@pytest.mark.parametrize(
    ("adapter", "layers", "where"),
    [("lora", "last", {"body.encoder.linear", "body.head"}), ("rows", "head", {"body.head"})],
)
def test_the_last_layers_alone_are_adapted_and_run_from_what_they_get(
    adapter, layers, where, network, person
):
    conditioner = CONDITIONERS["prototypes"](WIDTHS, CLASSES, 0.0)
    made = AdaptedClassifier(
        network("classifier"), adapter, 2, 0.5, conditioner, layers=layers
    ).eval()
    spec, vector = moved(made)
    names = spec.names[: spec.trainable]
    assert {name.rpartition(".")[0] for name in names} == where
    load_vector(made, vector)
    pooled = made.plain.encoder.pool(made.spec.normalise(*person))
    torch.testing.assert_close(made.tail(pooled), made(*person), rtol=1e-4, atol=1e-5)


def test_a_transformer_is_a_backbone_too(network, person, run):
    backbone = network("classifier")
    backbone.encoder = TransformerEncoder(backbone.spec, 4, 6, layers=1, heads=2)
    backbone.eval()
    made = AdaptedClassifier(backbone, "lora", 2, 0.5, CONDITIONERS["prototypes"]([4, 4, 6], 3, 0))
    torch.testing.assert_close(made(*person), backbone(*person))
    told = made.condition(*person)
    assert told.shape == (3, 15)
    spec, vector = moved(made)
    wanted = functional_call(made, spec.unflatten(vector), person).detach()
    assert not torch.allclose(wanted, backbone(*person))
    x, mean, deviation = person
    (logits,) = run(
        export.forward_graph(made, "forward"),
        windows=x,
        input_mean=mean,
        input_deviation=deviation,
        weights=vector,
    )
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4)


def test_a_batch_of_devices_equals_one_by_one(adapted, person):
    made = adapted()
    x = made.spec.normalise(*person)[:8]
    spec, one = moved(made)
    two = one + 0.1
    both = [spec.unflatten(v) for v in (one, two)]
    names = spec.names[: spec.trainable]
    stacked = {name: torch.stack([each[name] for each in both]) for name in names}
    call = torch.nn.Module()
    call.network = made
    call.forward = made.logits
    together = functional_call(call, {f"network.{n}": f for n, f in stacked.items()}, (x,))
    for device, tensors in enumerate(both):
        rows = x[4 * device :][:4]
        alone = functional_call(call, {f"network.{n}": tensors[n] for n in names}, (rows,))
        torch.testing.assert_close(together[4 * device :][:4], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("condition", list(CONDITIONERS))
def test_a_condition_does_not_depend_on_the_order_of_windows(condition, adapted, person):
    made = adapted(condition=condition)
    x, mean, deviation = person
    before = {k: v.clone() for k, v in made.named_buffers()}
    told = made.condition(x, mean, deviation)
    assert told.shape == (made.conditioner.tokens, made.conditioner.channels)
    turned = made.condition(x[torch.randperm(len(x))], mean, deviation)
    torch.testing.assert_close(told, turned, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(told, made.condition(x * x.abs(), mean, deviation))
    assert all(torch.equal(v, before[k]) for k, v in made.named_buffers())
    _, vector = moved(made)
    load_vector(made, vector)
    assert torch.equal(made.condition(x, mean, deviation), told), "an adapter is no part of it"


@pytest.mark.parametrize("condition", list(CONDITIONERS))
def test_conditions_of_a_batch_equal_those_of_one(condition, adapted, person):
    made = adapted(condition=condition)
    x = made.spec.normalise(*person)[:8]
    both = made.condition_of(x, 2)
    torch.testing.assert_close(both[1], made.condition_of(x[4:]), rtol=1e-4, atol=1e-5)


def test_tokens_can_be_clipped(adapted, person):
    told = adapted(clip=0.5).condition(*person)
    assert float(told.norm(dim=1).max()) <= 0.5 + 1e-6


def test_prototypes_are_means_by_class():
    hidden, posteriors = torch.randn(40, 5), torch.eye(2)[torch.arange(40) % 2]
    told = CONDITIONERS["prototypes"]([5], 2, 0.0)([hidden], posteriors)
    wanted = (hidden[::2].sum(0) + 2 * hidden.mean(0)) / 22
    torch.testing.assert_close(told[0, :5], wanted)
    torch.testing.assert_close(told[:, 5], torch.full((2,), np.log(0.51)).float())


def test_another_backbone_is_another_version(network):
    one, two = network("classifier"), network("classifier")
    assert version_of(one) == version_of(two)
    with torch.no_grad():
        two.head.bias[0] += 1e-3
    assert version_of(one) != version_of(two)
    other = network("classifier")
    set_own(other, 0.9)  # its conditions are others
    assert version_of(one) != version_of(other)


def test_graphs_hold_the_backbone(adapted, person, run):
    """ONNX Runtime against torch; the vector that goes in is the adapter's."""
    made = adapted()
    spec, vector = moved(made)
    x, mean, deviation = person
    given = {"windows": x, "input_mean": mean, "input_deviation": deviation, "weights": vector}
    (told,) = run(export.forward_graph(made, "condition"), **given)
    np.testing.assert_allclose(told, made.condition(*person), rtol=1e-4, atol=1e-5)
    (logits,) = run(export.forward_graph(made, "forward"), **given)
    wanted = functional_call(made, spec.unflatten(vector), person).detach()
    np.testing.assert_allclose(logits, wanted, rtol=1e-4, atol=1e-4)
    (adapted_vector,) = run(export.adapt_graph(made), **given, mix=0.5)
    changed = np.flatnonzero(adapted_vector != vector.numpy())
    assert changed.min() >= spec.trainable_length


@pytest.mark.parametrize("loss", ["classification_loss", "consistency_loss"])
def test_a_step_moves_the_adapter_alone(loss, adapted, person, run):
    made = adapted()
    spec, vector = moved(made)
    size = spec.trainable_length
    x, mean, deviation = person
    labels = {"labels": np.arange(len(x)) % CLASSES} if loss[1] == "l" else {}
    graph = export.step_graph(made, loss, "sgd", labels=bool(labels))
    value, after, _ = run(
        graph,
        windows=x,
        input_mean=mean,
        input_deviation=deviation,
        learning_rate=0.1,
        proximal=0.0,
        anchor=np.zeros(size),
        mask=np.ones(size),
        weights=vector,
        state=np.zeros(size),
        **labels,
    )
    leaf = vector.clone().requires_grad_()
    arguments = (x, *(torch.from_numpy(y) for y in labels.values()), mean, deviation)
    call = torch.nn.Module()
    call.network, call.forward = made, getattr(made, loss)
    tensors = {f"network.{n}": t for n, t in spec.unflatten(leaf).items()}
    wanted = functional_call(call, tensors, arguments)
    (gradient,) = torch.autograd.grad(wanted, leaf)
    gradient[size:] = 0
    np.testing.assert_allclose(value, wanted.detach(), rtol=1e-4)
    np.testing.assert_allclose(after, (leaf - 0.1 * gradient).detach(), rtol=1e-3, atol=1e-4)
    assert all(not norm.training for norm in norms(made))
