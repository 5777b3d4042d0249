"""Baking inputs of a traced graph."""

import torch
from torch.fx.experimental.proxy_tensor import make_fx

from hypernet.folding import bake


def traced(function, *arguments):
    return make_fx(function, tracing_mode="symbolic")(*arguments)


def operators(graph):
    return [node.target for node in graph.graph.nodes if node.op == "call_function"]


def test_what_follows_from_baked_inputs_is_computed_and_they_are_gone():
    x, weights = torch.randn(3, 4), torch.randn(4)
    graph = traced(lambda x, w: x * (w.square().sum() + 1).sqrt(), x, weights)
    expected = graph(x, weights)
    baked = bake(graph, {1: weights})
    assert torch.equal(baked(x), expected)
    assert operators(baked) == [torch.ops.aten.mul.Tensor]
    assert not torch.equal(baked(x + 1), expected)


def test_parts_of_one_split_are_known():
    x, weights = torch.randn(3), torch.arange(6.0)
    graph = traced(lambda x, w: x * torch.split(w, 3)[1], x, weights)
    baked = bake(graph, {1: weights})
    assert torch.equal(baked(x), x * torch.tensor([3.0, 4.0, 5.0]))
    assert len(operators(baked)) == 1


def test_a_branch_never_taken_leaves_the_graph():
    x = torch.randn(3, 4)
    for flag, expected in ((1.0, x.exp()), (0.0, x.sin())):
        switch = torch.tensor([flag])
        graph = traced(lambda x, s: torch.where(s > 0, x.exp(), x.sin()), x, switch)
        baked = bake(graph, {1: switch})
        assert torch.equal(baked(x), expected)
        assert len(operators(baked)) == 1


def test_a_choice_by_element_or_with_another_shape_stays():
    x = torch.randn(3, 4)
    for switch in (torch.tensor([1.0, 0, 1, 0]), torch.ones(1, 1, 1)):
        graph = traced(lambda x, s: torch.where(s > 0, x.exp(), x.sin()), x, switch)
        expected = graph(x, switch)
        baked = bake(graph, {1: switch})
        assert torch.equal(baked(x), expected)
        assert baked(x).shape == expected.shape
        assert len(operators(baked)) == 3


def test_nothing_to_bake_changes_nothing():
    x = torch.randn(3)
    graph = traced(lambda x: x + torch.ones(3), x)
    assert torch.equal(bake(graph, {})(x), x + 1)
