"""A person's model as a plain graph, against torch itself."""

import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

from hypernet.inference import Inference, inference_graph
from hypernet.networks.mixture import Mixture
from hypernet.networks.norm import norms
from hypernet.networks.personal import PersonalModel
from hypernet.parameters import load_vector, vector_of

NAMES = ("classifier", "mixture", "mixed", "tuned")


def personal(spec, *, tuned):
    network = PersonalModel(spec, 3, 2, 4, 4)
    network.mixed_weight, network.mixed_bias = torch.randn(3, 4), torch.randn(3)
    network.tuned = torch.full((1,), float(tuned))
    return network


@pytest.fixture
def made(spec, network):
    def make(name):
        torch.manual_seed(2)
        chosen = {
            "classifier": lambda: network("classifier"),
            "mixture": lambda: Mixture(spec, 3, 2, 4, 4),
            "mixed": lambda: personal(spec, tuned=False),
            "tuned": lambda: personal(spec, tuned=True),
        }[name]().eval()
        for norm in norms(chosen):
            norm.mean, norm.var = torch.randn_like(norm.mean), torch.rand_like(norm.var) + 0.5
        return chosen

    return make


@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_torchs_for_any_number_of_windows(made, windows, run, name):
    chosen = made(name)
    x = torch.from_numpy(windows(40, seed=7))
    statistics = chosen.spec.statistics(x)
    weights = vector_of(chosen) + 0.01
    graph = inference_graph(chosen, "forward", weights, *statistics)
    load_vector(chosen, weights)
    for count in (1, 2, 13):
        (logits,) = run(graph, windows=x[:count])
        with torch.no_grad():
            expected = chosen(x[:count], *statistics).numpy()
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_graph_is_plain_and_only_windows_go_in(made, windows, name):
    chosen = made(name)
    x = torch.from_numpy(windows(5))
    graph = inference_graph(chosen, "forward", vector_of(chosen), *chosen.spec.statistics(x))
    model = onnx.load_from_string(graph)
    onnx.checker.check_model(model, full_check=True)
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"windows": ["batch", 20, 6], "logits": ["batch", 3]}
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("Conv") == 3
    assert not {"Where", "Greater", "Pow", "Rsqrt", "Split"} & set(operators)
    assert all(node.domain == "" for node in model.graph.node)


def test_the_head_that_never_predicts_is_not_in_it(made, windows):
    sizes = {}
    for name in ("mixed", "tuned"):
        chosen = made(name)
        x = torch.from_numpy(windows(5))
        graph = inference_graph(chosen, "forward", vector_of(chosen), *chosen.spec.statistics(x))
        held = onnx.load_from_string(graph).graph.initializer
        sizes[name] = sum(int(np.prod(tensor.dims)) for tensor in held)
    assert sizes["mixed"] == sizes["tuned"]
    assert sizes["mixed"] < vector_of(made("mixed")).numel()


def test_a_person_s_graph_does_not_depend_on_whose_was_made_before(made, windows):
    """To the byte, also where another head predicts and where weights are the same."""
    first, second = made("mixed"), made("tuned")
    several = Inference(first, "forward")
    for round_, chosen in enumerate((first, second, second, first)):
        x = torch.from_numpy(windows(5, seed=round_))
        arguments = (vector_of(chosen) * round_, *chosen.spec.statistics(x))
        graph = several.baked(*arguments)
        assert graph == inference_graph(first, "forward", *arguments)
        assert graph == several.baked(*arguments)


def test_a_graph_is_translated_once_for_each_head(made, windows, monkeypatch):
    from hypernet import inference

    translations = []

    def translate(*arguments):
        translations.append(arguments)
        return kept(*arguments)

    kept = inference.translate
    monkeypatch.setattr(inference, "translate", translate)
    first, second = made("mixed"), made("tuned")
    several = Inference(first, "forward")
    statistics = first.spec.statistics(torch.from_numpy(windows(5)))
    for chosen in (first, second, first, second):
        several.baked(vector_of(chosen) + len(translations), *statistics)
    assert len(translations) == 2


class Shifted(torch.nn.Module):
    """A network whose code holds a tensor."""

    def __init__(self, spec):
        super().__init__()
        self.spec = spec
        self.scale = torch.nn.Parameter(torch.ones(spec.channels))

    def forward(self, x, mean, deviation):
        table = torch.tensor([1.0, -1.0, 0.5, 0.25, 2.0, 3.0])
        return (x * self.scale / deviation[:6] + table).sum(1) + mean[0]


def test_tensors_of_a_network_s_own_code_stay(spec, windows, run):
    network = Shifted(spec)
    several = Inference(network, "forward")
    x = torch.from_numpy(windows(4))
    for weights in (torch.ones(6), torch.arange(6.0), torch.zeros(6)):
        statistics = torch.randn(8), torch.rand(8) + 0.5
        graph = several.baked(weights, *statistics)
        assert graph == inference_graph(network, "forward", weights, *statistics)
        (found,) = run(graph, windows=x)
        network.scale.data = weights
        np.testing.assert_allclose(found, network(x, *statistics).detach(), rtol=1e-5, atol=1e-4)


def test_where_a_translation_uses_up_a_value_each_person_is_translated(made, windows, monkeypatch):
    from hypernet import inference

    kept = inference.translate

    def folding(*arguments):
        model = kept(*arguments)
        first = model.graph.initializer[0].name
        for node in model.graph.node:
            node.input[:] = ["folded" if name == first else name for name in node.input]
        model.graph.initializer[0].name = "folded"
        return model

    monkeypatch.setattr(inference, "translate", folding)
    chosen = made("classifier")
    several = Inference(chosen, "forward")
    for shift in (0, 1):
        arguments = (vector_of(chosen) + shift, torch.zeros(8) + shift, torch.ones(8))
        assert several.baked(*arguments) == inference_graph(chosen, "forward", *arguments)


SCRIPT = """
import hashlib, torch
from hypernet.inference import Inference, inference_graph
from hypernet.networks import Classifier, InputSpec
from hypernet.parameters import vector_of
torch.manual_seed(1)
network = Classifier(InputSpec(20, 6, ((0, 1, 2), (3, 4, 5))), 3, 4, 4)
graph = inference_graph(network, "forward", vector_of(network), torch.zeros(8), torch.ones(8))
print(hashlib.sha256(graph).hexdigest())
"""


@pytest.mark.study
def test_bytes_are_the_same_in_every_process():
    digests = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_weights_of_another_length_are_refused(network):
    chosen = network("classifier")
    with pytest.raises(ValueError, match=r"a vector of 7 entries; expected \d+"):
        inference_graph(chosen, "forward", torch.zeros(7), torch.zeros(8), torch.ones(8))


def test_a_channel_that_never_moves_stays_finite(network, windows, run):
    chosen = network("classifier").eval()
    x = torch.from_numpy(windows(6))
    x[..., 2] = 4.0
    statistics = chosen.spec.statistics(x)
    graph = inference_graph(chosen, "forward", vector_of(chosen), *statistics)
    (logits,) = run(graph, windows=x)
    np.testing.assert_allclose(logits, chosen(x, *statistics).detach(), rtol=1e-4, atol=1e-5)
