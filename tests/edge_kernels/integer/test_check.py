"""Networks that are not consistent are refused, by step and cause."""

import dataclasses
import re

import numpy as np
import pytest

from edge_kernels.integer.check import check, shape_of
from edge_kernels.integer.net import (
    Add,
    Affine,
    Concat,
    Levels,
    Pool,
    Product,
    Reduce,
    Relu,
    Reshape,
    Transpose,
)

LEVELS = Levels(0.1, 10)


@pytest.fixture
def made(new_net):
    """(4, 10) → convolution (6, 8) → linear accumulators (6, 5)."""
    made = new_net((4, 10))
    made.product(0, 6, 3)
    made.product(1, 5, linear=True, accumulators=True)
    return made


def with_step(made, at, **changes):
    made.net.steps[at] = dataclasses.replace(made.net.steps[at], **changes)
    return made.net


def refused(net, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        check(net)


def test_a_consistent_network_passes(made):
    check(made.net)


@pytest.mark.parametrize("future", [1, 2, -1])
def test_a_value_of_the_future(made, future):
    refused(with_step(made, 0, x=future), f"step 0 (Product): it reads value {future}; values 0 to")


def test_accumulators_are_only_returned(made):
    made.net.steps.append(Relu(2))
    made.net.shapes.append((6, 5))
    made.net.levels.append(LEVELS)
    refused(made.net, "step 2 (Relu): it reads value 2, which is accumulators")
    made.net.output = 3
    refused(made.net, "step 1 (Product): accumulators are not the network's output")


def test_numbers_of_values(made):
    made.net.shapes.append((1,))
    refused(made.net, "2 steps, 4 shapes and 3 levels; 3 of each value are needed")
    made.net.shapes.pop()
    made.net.output = 3
    refused(made.net, "the output is value 3; there are values 0 to 2")


@pytest.mark.parametrize(
    ("at", "levels", "message"),
    [
        (0, None, "value 0, the input: value 0 is accumulators"),
        (0, Levels(0.1, 256), "value 0, the input: its zero 256 is not in 0…255"),
        (1, Levels(0.1, -1), "step 0 (Product): its zero -1"),
        (1, Levels(0.1, 3, 12), "step 0 (Product): 12 bits; 8 or 16 are possible"),
        (1, Levels(float("nan"), 3), "step 0 (Product): its scale nan is not > 0"),
        (1, Levels(1e-30, 3), "step 0 (Product): a ratio of scales of"),
    ],
)
def test_levels(made, at, levels, message):
    made.net.levels[at] = levels
    refused(made.net, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight": np.zeros((6, 3, 5), np.int8)}, "weights read 5 channels of 4"),
        ({"weight": np.zeros((6, 3, 4), np.int16)}, "weights are int16, not int8"),
        ({"weight": np.zeros((6, 12, 4), np.int8)}, "a length of 10 is shorter than its kernel"),
        ({"weight": np.zeros((7, 3, 4), np.int8)}, "it makes (7, 8), not (6, 8)"),
        ({"weight_bits": 4}, "weights beyond -8…7"),
        ({"bias": np.zeros(5, np.int32)}, "biases of shape (5,), not (6,)"),
        ({"bias": np.full(6, 2**31 - 1, np.int32)}, "its sums may reach"),
        ({"bias": np.zeros(6)}, "biases are float64, not int32"),
        ({"weight_scale": np.zeros(6)}, "a ratio of scales of 0.0; expected a positive number"),
        ({"weight_scale": np.ones(1)}, "(1,) scales, not (6,)"),
        ({"stride": 0}, "kernel, stride and dilation must be 1 at least"),
        ({"pad_begin": 3}, "pads (3, 0) outside 0…2"),
        ({"pad_end": -1}, "pads (0, -1) outside 0…2"),
    ],
)
def test_products(made, changes, message):
    refused(with_step(made, 0, **changes), f"step 0 (Product): {message}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": 0}, "weights read 8 numbers, the value's last axis 10"),
        ({"pad_end": 1}, "a linear layer has kernel 1, stride 1 and no pads"),
    ],
)
def test_linear_layers(made, changes, message):
    refused(with_step(made, 1, **changes), f"step 1 (Product): {message}")


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Add(0, 1), "it adds shapes (3, 8) and (5,)"),
        (Pool(1, True, 2), "it reads a value of shape (5,); (C, L) is needed"),
        (Pool(0, True, 9), "a length of 8 is shorter than its kernel"),
        (Pool(0, True, 3, pad_begin=3), "pads (3, 0) outside 0…2"),
        (Reduce(0, True, 2), "axis 2 of a value of shape (3, 8)"),
        (Affine(0, np.ones(8), np.ones(3)), "(8,) factors or terms, not (3,)"),
        (Affine(0, np.ones(3), np.full(3, np.inf)), "a factor or term is not finite"),
        (Concat((), 0), "it joins nothing"),
        (Concat((0, 1), 0), "it joins shapes [(3, 8), (5,)] along axis 0"),
        (Reshape(0, (5, 5)), "(3, 8) has not as many elements as (5, 5)"),
        (Reshape(0, (1, 4, 6)), "a shape (1, 4, 6)"),
        (Transpose(1), "it reads a value of shape (5,); (C, L) is needed"),
    ],
)
def test_shapes(step, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        shape_of(step, [(3, 8), (5,)])


@pytest.mark.parametrize("step", [Pool(0, False, 2), Reduce(0, False, 1), Relu(0), Transpose(0)])
def test_levels_that_must_stay(new_net, step):
    made = new_net((3, 8))
    made.emit(step, LEVELS)
    refused(made.net, f"step 0 ({type(step).__name__}): it leaves levels as they are, but")


def test_terms_beyond_64_bits(new_net):
    made = new_net((3, 8))
    made.emit(Affine(0, np.full(3, 1e-8), np.full(3, 1e9)), LEVELS)
    refused(made.net, "step 0 (Affine): a term of")


def test_factors_of_zero(new_net):
    made = new_net((3, 8))
    made.emit(Affine(0, np.zeros(3), np.ones(3)), LEVELS)
    refused(made.net, "step 0 (Affine): a ratio of scales of 0.0")


def test_a_step_of_no_kind(made):
    made.net.steps[0] = Product
    refused(made.net, "step 0 (type): no such step")
