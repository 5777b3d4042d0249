"""torch's own transformers, from module to operator: packed layers, tokens, time first."""

import warnings
from functools import cache

import numpy as np
import pytest
import torch
from torch import nn

from edge_kernels.integer.net import Add, Attention, Concat, Constant, Norm, Product
from edge_kernels.quantize import evaluate
from edge_kernels.quantize.quantizer import inputs, quantize, to_edge, to_qdq
from edge_kernels.quantize.reader import read
from tests.edge_kernels.integer.instruction_sets import SETS, codes, keep, same
from tests.edge_kernels.integer.test_edge import model_of
from tests.edge_kernels.quantize.gated import exported, seeded
from tests.edge_kernels.quantize.sequences import SEQUENCES, SHAPE, WIDTH
from tests.edge_kernels.quantize.test_gates import FEW, served, windows
from tests.edge_kernels.quantize.test_transformers import run


@cache
def model(name, dynamo=False):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return exported(seeded(SEQUENCES[name]), dynamo=dynamo)


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("name", SEQUENCES)
def test_it_reads_as_the_float_model(name, dynamo):
    x = windows(7)
    split = read(model(name, dynamo))
    net, right = split.net, run(model(name, dynamo), x)
    np.testing.assert_allclose(evaluate.run(net, inputs(split, x)), right, rtol=1e-4, atol=2e-5)
    two = name == "inertial"  # what a decoder's queries see of each other is a constant
    assert sum(isinstance(step, Attention) for step in net.steps) == 1 + two
    norms = any(isinstance(step, Norm) for step in net.steps)
    told = norms or name in ("queried", "decoder", "asked")  # positions, tokens and queries
    assert any(isinstance(step, Constant) for step in net.steps) == told


@pytest.mark.parametrize("name", SEQUENCES)
def test_8_and_4_bits(name):
    assert served(model(name))[1] < 0.03
    assert served(model(name), 4)[1] < 0.15


@pytest.mark.parametrize("quantizer", ["smoothquant", "mobilequant", "distilled", "blockwise"])
def test_every_quantizer(quantizer):
    settings = None if quantizer == "smoothquant" else FEW
    assert served(model("vision"), 8, quantizer, settings=settings)[1] < 0.03


def test_queries_keys_and_values_are_layers_with_levels_of_their_own():
    net = read(model("module")).net
    (attention,) = (step for step in net.steps if isinstance(step, Attention))
    layers = [net.steps[value - 1] for value in (attention.x, attention.k, attention.v)]
    assert [layer.weight.shape for layer in layers] == [(WIDTH, 1, WIDTH)] * 3
    assert len({attention.x, attention.k, attention.v}) == 3


@pytest.mark.parametrize("name", ["vision", "queried"])
def test_what_bundles_refuse_is_in_no_export(name):
    made = quantize(model(name), windows(64, 1), quantizer="rtn")
    for export in (to_qdq, to_edge):
        kinds = {node.op_type for node in export(made).graph.node}
        assert not kinds & {"Expand", "Tile", "ConstantOfShape"}


def test_a_token_and_positions_are_summed_up_in_16_bits():
    net = quantize(model("vision, norm first"), windows(64, 1), quantizer="rtn").net
    (joined,) = (at for at, step in enumerate(net.steps, 1) if isinstance(step, Concat))
    summed = next(at for at, step in enumerate(net.steps, 1) if isinstance(step, Add))
    assert net.steps[summed - 1].x == joined
    assert [net.levels[value].bits for value in (joined, joined - 1, summed)] == [16] * 3
    token, patches = net.steps[joined - 1].xs
    assert isinstance(net.steps[token - 1], Constant)
    assert net.levels[token] == net.levels[patches] == net.levels[joined]


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    nets = [
        quantize(model(name), windows(64, 1), quantizer="rtn", bits=bits).net
        for name in ("vision", "inertial", "module")
        for bits in (8, 4)
    ]
    cases = [(net, codes(net, at)) for at, net in enumerate(nets)]
    return keep(tmp_path_factory.mktemp("sequences") / "answers.npz", cases, model_of)


@pytest.mark.parametrize("isa", SETS)
def test_every_instruction_set(isa, answers):
    same(isa, answers)


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(SHAPE[0], WIDTH), nn.Linear(WIDTH, 5)
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)

    def forward(self, x):
        h = self.embed(x.transpose(1, 2))
        mask = torch.triu(torch.ones(SHAPE[1], SHAPE[1], dtype=torch.bool), 1)
        return self.head(self.attention(h, h, h, attn_mask=mask)[0].mean(1))


def test_a_mask_is_refused_by_name():
    with pytest.raises(
        ValueError, match=r"\(Softmax\).*attention with a mask is not served: export without it"
    ):
        read(exported(seeded(Masked)))


def test_a_mask_of_one_head_is_refused_by_name():
    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.ModuleList(nn.Linear(SHAPE[0], WIDTH) for _ in range(3))

        def forward(self, x):
            q, k, v = (part(x.transpose(1, 2)) for part in self.parts)
            mask = torch.full((SHAPE[1], SHAPE[1]), -9.0).triu(1)
            return torch.softmax(q @ k.transpose(1, 2) / 4 + mask, -1) @ v

    with pytest.raises(ValueError, match=r"\(Softmax\).*attention with a mask is not served"):
        read(exported(seeded(Single)))


class Averaged(Masked):
    """Reads the weights, too."""

    def forward(self, x):
        h = self.embed(x.transpose(1, 2))
        mixed, weights = self.attention(h, h, h)
        return self.head(mixed.mean(1)) + weights.mean((1, 2))[:, None]


def test_weights_that_are_read_are_refused_by_name():
    with pytest.raises(ValueError, match=r"\(Softmax\).*read by something other than one product"):
        read(exported(seeded(Averaged)))


def test_layers_that_are_not_read_by_attention_stay():
    net = read(model("unbind")).net
    rows = [len(step.weight) for step in net.steps if isinstance(step, Product)]
    assert rows == [WIDTH] * 5 + [5]
