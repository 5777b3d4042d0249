"""Every exported graph against torch itself, over several steps."""

import getpass
import hashlib
import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnxruntime import InferenceSession

from hypernet.export import forward_graph, statistics_graph, step_graph
from hypernet.networks import Autoencoder, InputSpec
from hypernet.networks.losses import cross_entropy
from hypernet.networks.norm import norms
from hypernet.parameters import ParameterSpec, load_vector, vector_of

BATCHES = (8, 5, 1, 13)
STEPS = [
    (name, optimizer, mode)
    for name in ("classifier", "autoencoder", "mlp")
    for optimizer in ("sgd", "adam")
    for mode in ("frozen", "batch")
    if (name, mode) != ("mlp", "batch")  # it has no batch norm
]
# Each export takes seconds; these differ from the others in nothing that those do not cover.
ALIKE = [
    ("autoencoder", "sgd", "batch"),
    ("autoencoder", "adam", "frozen"),
    ("mlp", "adam", "frozen"),
]
RATE = {"sgd": 0.02, "adam": 1e-3}


def cases(rows, wrap=tuple):
    """Rows as parameters; what is alike is for the studies."""
    return [
        pytest.param(
            *wrap(row),
            id="-".join(row),
            marks=[pytest.mark.study] if tuple(row[-3:]) in ALIKE else [],
        )
        for row in rows
    ]


def moving(network):
    """Statistics that are not 0 and 1, so that frozen ones matter."""
    generator = torch.Generator().manual_seed(5)
    for norm in norms(network):
        norm.mean = torch.randn(norm.mean.shape, generator=generator) * 0.2
        norm.var = torch.rand(norm.var.shape, generator=generator) + 0.5
    return network


def batches(network, windows, classification, sizes=BATCHES):
    """Batches of one person: keyword arguments of a step, without the step's own."""
    everyone = torch.from_numpy(windows(40, seed=7))
    mean, deviation = network.spec.statistics(everyone)
    for number, size in enumerate(sizes):
        batch = {"windows": everyone[number : number + size]}
        if classification:
            batch["labels"] = torch.arange(number, number + size) % 3
        yield {**batch, "input_mean": mean, "input_deviation": deviation}


def loss_of(network, batch):
    x, mean, deviation = batch["windows"], batch["input_mean"], batch["input_deviation"]
    if "labels" in batch:
        return torch.nn.functional.cross_entropy(network(x, mean, deviation), batch["labels"])
    return network.reconstruction_loss(x, mean, deviation)


def torch_steps(network, name, optimizer, mode, data, proximal=0.0, mask=None):
    """Losses and vectors of the same steps in eager torch, with its own optimizers."""
    network.train(mode == "batch")
    anchor = [p.detach().clone() for p in network.parameters()]
    if optimizer == "adam":
        descent = torch.optim.Adam(network.parameters(), RATE["adam"])
    else:
        descent = torch.optim.SGD(network.parameters(), RATE["sgd"], momentum=0.9)
    for batch in data:
        descent.zero_grad()
        loss = loss_of(network, batch)
        pull = sum(
            (p - a).square().sum() for p, a in zip(network.parameters(), anchor, strict=True)
        )
        (loss + proximal / 2 * pull).backward()
        if mask is not None:
            for p, m in zip(network.parameters(), mask, strict=True):
                p.grad *= m
        descent.step()
        yield loss.item(), vector_of(network)


class Stepper:
    """Runs a step graph from a network's weights, carrying weights and state."""

    def __init__(self, run, graph, network, optimizer):
        self.run, self.graph, self.optimizer = run, graph, optimizer
        self.size = ParameterSpec.of(network).trainable_length
        self.weights = vector_of(network)
        self.anchor = self.weights[: self.size].clone()
        self.state = torch.zeros(2 * self.size + 1 if optimizer == "adam" else self.size)
        self.mask = torch.ones(self.size)

    def __call__(self, batch, proximal=0.0, rate=None):
        loss, weights, state = self.run(
            self.graph,
            **batch,
            learning_rate=RATE[self.optimizer] if rate is None else rate,
            proximal=proximal,
            anchor=self.anchor,
            mask=self.mask,
            weights=self.weights,
            state=self.state,
        )
        self.weights, self.state = torch.from_numpy(weights), torch.from_numpy(state)
        return float(loss)


@pytest.fixture
def stepper(run, graph, network):
    def make(name, optimizer, mode):
        return Stepper(run, graph("step", name, optimizer, mode), moving(network(name)), optimizer)

    return make


@pytest.mark.parametrize(("name", "optimizer", "mode"), cases(STEPS))
def test_steps_equal_torchs(stepper, network, windows, name, optimizer, mode):
    step, reference = stepper(name, optimizer, mode), moving(network(name))
    before = step.weights.clone()
    data = list(batches(reference, windows, name == "classifier"))
    expected = torch_steps(reference, name, optimizer, mode, data)
    for batch, (loss, vector) in zip(data, expected, strict=True):
        assert step(batch) == pytest.approx(loss, abs=1e-5)
        torch.testing.assert_close(step.weights, vector, rtol=1e-5, atol=1e-5)
        load_vector(reference, step.weights)  # a ReLU at its edge makes two paths part
    learned, kept = step.size, step.weights[step.size :]
    assert (step.weights[:learned] - before[:learned]).norm() > 1e-2, "it learned nothing"
    assert torch.equal(kept, before[learned:]) == (mode == "frozen" or not kept.numel())


@pytest.mark.parametrize(
    ("name", "optimizer", "mode"),
    [("classifier", "sgd", "frozen"), ("autoencoder", "adam", "batch"), ("mlp", "sgd", "frozen")],
)
def test_proximal_term_and_mask_equal_torchs(stepper, network, windows, name, optimizer, mode):
    step, reference = stepper(name, optimizer, mode), moving(network(name))
    spec = ParameterSpec.of(reference)
    generator = torch.Generator().manual_seed(2)
    step.mask = (torch.rand(step.size, generator=generator) < 0.5).float()
    padded = torch.cat([step.mask, torch.zeros(spec.length - step.size)])
    mask = list(spec.unflatten(padded).values())[: spec.trainable]
    data = list(batches(reference, windows, name == "classifier"))
    expected = torch_steps(reference, name, optimizer, mode, data, proximal=3.0, mask=mask)
    start = step.weights[: step.size].clone()
    for batch, (loss, vector) in zip(data, expected, strict=True):
        assert step(batch, proximal=3.0) == pytest.approx(loss, abs=1e-5)
        torch.testing.assert_close(step.weights, vector, rtol=1e-5, atol=1e-5)
        load_vector(reference, step.weights)
    still = step.mask == 0
    assert torch.equal(step.weights[: step.size][still], start[still])
    assert not torch.equal(step.weights[: step.size], start)


@pytest.mark.parametrize(("name", "optimizer", "mode"), cases(STEPS))
def test_mask_0_leaves_weights_bit_identical(stepper, network, windows, name, optimizer, mode):
    step = stepper(name, optimizer, mode)
    step.mask = torch.zeros(step.size)
    step.state = torch.ones_like(step.state)  # of steps under another mask
    step.anchor = step.anchor + 1
    before = step.weights[: step.size].clone()
    for batch in batches(network(name), windows, name == "classifier"):
        step(batch, proximal=1.0)
    assert torch.equal(step.weights[: step.size], before)


@pytest.mark.parametrize("name", ["classifier", "autoencoder", "mlp"])
def test_adam_with_no_gradient_at_all_stays_finite(stepper, network, windows, name):
    """The exporter's own optimiser folded "+ 1e-8" to "+ 0": 0/0."""
    step = stepper(name, "adam", "frozen")
    step.weights = torch.zeros_like(step.weights)
    for batch in batches(network(name), windows, name == "classifier"):
        step(batch)
    assert torch.isfinite(step.weights).all()
    zero = step.state[step.size : 2 * step.size] == 0
    assert zero.any()
    assert not step.weights[: step.size][zero].any()


def test_adams_epsilon_is_1e_8(stepper, network, windows):
    step = stepper("mlp", "adam", "frozen")
    step.weights = torch.zeros_like(step.weights)
    step.anchor = torch.ones(step.size)
    (batch,) = batches(network("mlp"), windows, classification=False, sizes=[4])
    step(batch, proximal=1e-8, rate=1.0)  # elsewhere than at the last bias the gradient is −1e-8
    assert step.weights.median().item() == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("size", [1, 2, 5, 33])
@pytest.mark.parametrize(("name", "mode"), [("classifier", "batch"), ("autoencoder", "frozen")])
def test_one_graph_takes_any_batch_size(stepper, network, windows, name, mode, size):
    step, reference = stepper(name, "sgd", mode), moving(network(name))
    (batch,) = batches(reference, windows, name == "classifier", sizes=[size])
    ((loss, vector),) = torch_steps(reference, name, "sgd", mode, [batch])
    assert step(batch) == pytest.approx(loss, abs=1e-5)
    torch.testing.assert_close(step.weights, vector, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "method"),
    [("classifier", "forward"), ("classifier", "encode"), ("autoencoder", "errors")],
)
def test_forward_graphs_equal_torch(run, graph, network, windows, name, method):
    model = moving(network(name)).eval()
    for count in (1, 7, 30):
        x = torch.from_numpy(windows(count, seed=count))
        mean, deviation = model.spec.statistics(torch.from_numpy(windows(40)))
        (output,) = run(
            graph("forward", name, method),
            windows=x,
            input_mean=mean,
            input_deviation=deviation,
            weights=vector_of(model),
        )
        with torch.no_grad():
            expected = getattr(model, method)(x, mean, deviation).numpy()
        np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("count", [1, 6, 40])
def test_statistics_graph_equals_torch(run, graph, spec, windows, count):
    x = windows(count, seed=count)
    mean, deviation = run(graph("statistics"), windows=x)
    lengths = [np.linalg.norm(x[..., list(group)], axis=-1) for group in spec.magnitudes]
    features = np.concatenate([x, np.stack(lengths, -1)], -1, dtype=np.float64)
    np.testing.assert_allclose(mean, features.mean((0, 1)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(deviation, features.std((0, 1)), rtol=1e-4, atol=1e-5)


def adapted(model, x, mean, deviation, mix):
    """AdaBN norm after norm, by hooks: each normalises with what it has just been given."""

    def adapt(norm, inputs):
        (z,) = inputs
        axes = (0, 2) if z.ndim == 3 else (0,)
        norm.mean = (1 - mix) * norm.mean + mix * z.mean(axes)
        norm.var = (1 - mix) * norm.var + mix * z.var(axes, unbiased=False)

    hooks = [norm.register_forward_pre_hook(adapt) for norm in norms(model)]
    with torch.no_grad():
        model.encode(x, mean, deviation)
    for hook in hooks:
        hook.remove()
    return vector_of(model)


@pytest.mark.parametrize("mix", [0.0, 0.25, 0.5, 0.8, 1.0])
def test_adapt_graph_equals_plain_torch(run, graph, network, windows, mix):
    model = moving(network("classifier")).eval()
    x = torch.from_numpy(windows(30))
    mean, deviation = model.spec.statistics(x)
    before = vector_of(model)
    inputs = {"windows": x, "input_mean": mean, "input_deviation": deviation}
    (output,) = run(graph("adapt", "classifier"), **inputs, weights=before, mix=mix)
    after = adapted(model, x, mean, deviation, mix)
    np.testing.assert_allclose(output, after, rtol=1e-4, atol=1e-5)
    learned = ParameterSpec.of(model).trainable_length
    np.testing.assert_array_equal(output[:learned], before[:learned])
    if mix == 0:
        np.testing.assert_array_equal(output, before)
    else:
        assert np.abs(output - before.numpy())[learned:].max() > 0.01


def test_mix_1_forgets_the_statistics_that_came(run, graph, network, windows):
    one, two = network("classifier"), moving(network("classifier"))
    x = torch.from_numpy(windows(30))
    mean, deviation = one.spec.statistics(x)
    inputs = {"windows": x, "input_mean": mean, "input_deviation": deviation, "mix": 1.0}
    outputs = [
        run(graph("adapt", "classifier"), **inputs, weights=vector_of(model))[0]
        for model in (one, two)
    ]
    np.testing.assert_allclose(*outputs, rtol=1e-4, atol=1e-5)


def test_exporting_twice_gives_the_same_bytes_and_touches_nothing_else(graph, spec, network):
    first = graph("step", "mlp", "sgd", "frozen")
    model, state = network("mlp").train(), torch.random.get_rng_state()
    before = vector_of(model)
    assert step_graph(model, "reconstruction_loss", labels=False) == first
    assert statistics_graph(spec) == graph("statistics")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(vector_of(model), before)
    assert not any(p.grad is not None for p in model.parameters())


REMAKE = """
import hashlib, json, torch
from hypernet.export import forward_graph, statistics_graph, step_graph
from hypernet.networks import InputSpec, MlpAutoencoder
torch.manual_seed(99)
spec = InputSpec(20, 6, ((0, 1, 2), (3, 4, 5)))
step = step_graph(MlpAutoencoder(spec, 6), "reconstruction_loss", "sgd", labels=False)
print(json.dumps([hashlib.sha256(graph).hexdigest() for graph in (statistics_graph(spec), step)]))
"""


def test_another_process_exports_the_same_bytes(graph, tmp_path):
    """Other weights, another hash seed and folder: none of them may be in a graph."""
    done = subprocess.run(
        [sys.executable, "-c", REMAKE],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "1", "PATH": "/usr/bin"},
    )
    here = (graph("statistics"), graph("step", "mlp", "sgd", "frozen"))
    digests = json.loads(done.stdout.splitlines()[-1])
    assert digests == [hashlib.sha256(each).hexdigest() for each in here]


GRAPHS = [("statistics",), ("adapt", "classifier"), ("forward", "classifier", "forward")]
GRAPHS += [("step", *step) for step in STEPS]


@pytest.mark.parametrize("which", cases(GRAPHS, lambda row: [row]))
def test_graphs_hold_nothing_of_this_machine(graph, which):
    exported = graph(*which)
    traces = ["/usr", "/home", "/tmp", ".py", "packages", "hypernet", str(Path.cwd()), sys.prefix]
    for trace in [*traces, socket.gethostname(), getpass.getuser()]:
        assert len(trace) < 3 or trace.encode() not in exported, trace
    model = onnx.load_from_string(exported)
    parts = (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output)
    assert not any(part.metadata_props or part.doc_string for part in parts)
    assert not model.functions


@pytest.mark.parametrize("which", cases(GRAPHS, lambda row: [row]))
def test_graphs_hold_no_weights(graph, which):
    model = onnx.load_from_string(graph(*which))
    onnx.checker.check_model(model)
    constants = [a.t for node in model.graph.node for a in node.attribute if a.HasField("t")]
    for tensor in (*model.graph.initializer, *constants):
        floating = tensor.data_type == onnx.TensorProto.FLOAT
        assert np.prod(tensor.dims) <= (1 if floating else 32), tensor
        assert not tensor.external_data


def test_inputs_and_outputs_are_named(graph):
    def names(exported):
        main = onnx.load_from_string(exported).graph
        return [value.name for value in main.input], [value.name for value in main.output]

    own = ["learning_rate", "proximal", "anchor", "mask", "weights", "state"]
    person = ["input_mean", "input_deviation"]
    assert names(graph("step", "classifier", "sgd", "frozen")) == (
        ["windows", "labels", *person, *own],
        ["loss", "new_weights", "new_state"],
    )
    assert names(graph("step", "mlp", "sgd", "frozen"))[0] == ["windows", *person, *own]
    assert names(graph("adapt", "classifier"))[0] == ["windows", *person, "weights", "mix"]
    assert names(graph("statistics"))[0] == ["windows"]


def test_a_step_learns_from_a_loaded_vector(stepper, network, windows):
    """After load_vector the network itself has the loss that the graph reports next."""
    step, model = stepper("classifier", "adam", "frozen"), moving(network("classifier")).eval()
    (batch,) = batches(model, windows, classification=True, sizes=[12])
    losses = [step(batch) for _ in range(6)]
    assert losses == sorted(losses, reverse=True)
    load_vector(model, step.weights)
    x, mean, deviation = batch["windows"], batch["input_mean"], batch["input_deviation"]
    with torch.no_grad():
        loss = cross_entropy(model(x, mean, deviation), batch["labels"])
    assert step(batch) == pytest.approx(loss.item(), abs=1e-5)


@pytest.mark.parametrize("time", [17, 22])
def test_lengths_that_pooling_does_not_divide(run, time):
    """As the smartwatch's windows: what was upsampled is cut, and the cut has a gradient."""
    uneven = InputSpec(time, 6, ((0, 1, 2), (3, 4, 5)))
    model = moving(Autoencoder(uneven, 4, 6))
    exported = step_graph(model, "reconstruction_loss", labels=False)
    step = Stepper(run, exported, model, "sgd")
    x = torch.rand(3, time, 6)
    mean, deviation = uneven.statistics(x)
    batch = {"windows": x, "input_mean": mean, "input_deviation": deviation}
    ((loss, vector),) = torch_steps(model, "autoencoder", "sgd", "frozen", [batch])
    assert step(batch) == pytest.approx(loss, abs=1e-5)
    torch.testing.assert_close(step.weights, vector, rtol=1e-4, atol=1e-5)


def test_an_operator_that_neither_table_nor_exporter_has_is_decomposed(spec):
    class Foreign(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.spec, self.line = spec, torch.nn.Linear(spec.channels, 3)

        def smooth(self, x, mean, deviation):
            normal = torch.nn.functional.layer_norm(self.line(x), (3,))
            entropy = torch.special.entr(normal.sigmoid()).sum((1, 2)) * torch.tensor(0.5)
            return entropy + 0 * (mean + deviation).sum()

    network = Foreign()
    given = {
        "windows": torch.rand(4, spec.time, spec.channels),
        "input_mean": torch.zeros(spec.features),
        "input_deviation": torch.ones(spec.features),
    }
    feeds = {name: value.numpy() for name, value in given.items()}
    session = InferenceSession(forward_graph(network, "smooth"))
    (out,) = session.run(None, feeds | {"weights": vector_of(network).numpy()})
    np.testing.assert_allclose(out, network.smooth(*given.values()).detach(), rtol=1e-5)


def test_the_exporter_s_table_is_made_once_and_put_back():
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    from hypernet.onnx_registry import made_once

    make = ONNXRegistry.from_torchlib
    with made_once():
        assert ONNXRegistry.from_torchlib() is ONNXRegistry.from_torchlib()
    assert ONNXRegistry.from_torchlib == make


def test_the_exporter_decomposes_nothing_and_is_put_back(spec, monkeypatch):
    """It would make a table for each graph of what is not decomposed once more anyway."""
    from torch.onnx._internal.exporter import _decomp, _fx_passes

    def refused(_):
        raise AssertionError("a table was made")

    decompose = _fx_passes.decompose_with_registry
    monkeypatch.setattr(_decomp, "create_onnx_friendly_decomposition_table", refused)
    assert statistics_graph(spec)
    assert _fx_passes.decompose_with_registry is decompose
