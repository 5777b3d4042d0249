"""Networks that are not consistent are refused, by step and cause."""

import dataclasses
import re

import numpy as np
import pytest

from edge_kernels.integer.check import check
from edge_kernels.integer.net import (
    FREE,
    Add,
    Affine,
    Attention,
    Concat,
    Constant,
    Levels,
    Multiply,
    Norm,
    Pool,
    Product,
    Reduce,
    Relu,
    Rescale,
    Reshape,
    Slice,
    Table,
    Transpose,
)
from edge_kernels.integer.shapes import shape_of

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
        (Multiply(0, 1), "it multiplies shapes (3, 8) and (5,); equal axes, or such of 1, are"),
        (Multiply(0, 2), "it multiplies shapes (3, 8) and (3, 2)"),
        (Slice(0, 2, 0, 1), "axis 2 of a value of shape (3, 8)"),
        (Slice(0, 1, 3, 6), "it takes 3 to 9 of an axis of 8"),
        (Slice(0, 1, -1, 2), "it takes -1 to 1 of"),
        (Slice(0, 1, 3, 0), "it takes 3 to 3 of"),
        (Constant(np.zeros((2, 3, 4))), "its shape (2, 3, 4) is not (C, L) or (N,)"),
        (Constant(np.zeros((0, 3))), "its shape (0, 3) is not"),
    ],
)
def test_shapes(step, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        shape_of(step, [(3, 8), (5,), (3, 2)])


@pytest.mark.parametrize(
    "step",
    [Pool(0, False, 2), Reduce(0, False, 1), Relu(0), Transpose(0), Slice(0, 1, 2, 3)],
)
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


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Transpose(0), "it transposes a value with a free axis, (-1, 8)"),
        (Reshape(0, (8, 4)), "it reshapes a value with a free axis"),
        (Concat((0, 0), 0), "it lengthens a value with a free axis"),
        (Reduce(0, True, 1), "it makes a value with a free axis, (-1,)"),
        (Affine(0, np.ones(1), np.ones(1)), "it scales channels of a value with a free axis"),
        (Product(0, np.ones((2, 1, 8), np.int8), None, None), "it convolves a value with a free"),
        (Slice(0, 0, 0, 2), "it takes 0 to 2 of an axis of -1, a free one of 1"),
        (Slice(0, 0, 1, 1), "it takes 1 to 2 of an axis of -1"),
        (Multiply(0, 1), "it multiplies shapes (-1, 8) and (4, 6)"),
        (Attention(0, 0, 0, 3, 1.0), "3 heads of 8 and 8 numbers"),
        (Attention(0, 0, 0, 0, 1.0), "0 heads of"),
        (Attention(0, 1, 1, 1, 1.0), "queries (-1, 8), keys (4, 6) and values (4, 6) do not fit"),
        (Attention(1, 1, 0, 1, 1.0), "queries (4, 6), keys (4, 6) and values (-1, 8) do not fit"),
        (Attention(2, 2, 2, 1, 1.0), "it reads a value of shape (16385,)"),
        (Norm(1, np.ones(4), np.ones(4), 0.1), "(4,) factors or terms, not (6,)"),
        (Norm(2, np.ones(16385), np.ones(16385), 0.1), "it norms 16385 numbers; 16384 are"),
    ],
)
def test_shapes_of_sequences(step, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        shape_of(step, [(FREE, 8), (4, 6), (16385,)])


@pytest.mark.parametrize(
    ("step", "levels", "message"),
    [
        (Table(0, np.zeros(255, np.uint8)), LEVELS, "values are uint8 (255,), not uint8 (256,)"),
        (Table(0, np.zeros(256, np.uint8)), Levels(1.0, 0, 16), "values are uint8 (256,), not"),
        (Table(1, np.zeros(256, np.uint8)), LEVELS, "it reads value 1 of 16 bits; 8 are needed"),
        (Attention(0, 1, 1, 1, 1.0), LEVELS, "it reads value 1 of 16 bits; 8 are needed"),
        (Attention(0, 0, 0, 1, 0.0), LEVELS, "its scale 0.0 is not > 0"),
        (Attention(0, 0, 0, 1, 1.0), Levels(1e3, 0), "its values' scale is below 2^−9 of"),
        (Norm(1, np.ones(6), np.ones(6), -1.0), LEVELS, "an epsilon of -1.0; 0 or more is"),
        (Norm(1, np.ones(6), np.ones(6), 1e30), LEVELS, "units, beyond 2^61"),
        (Norm(1, np.ones(6), np.full(6, 1e12), 0.1), LEVELS, "a term of"),
        (Multiply(1, 1), Levels(1e12, 0), "does not fit a shift of 1 to 62 bits"),
        (Constant(np.full((2, 3), np.nan)), LEVELS, "a value is not finite"),
        (Rescale(1), Levels(1e12, 0), "does not fit a shift of 1 to 62 bits"),
        (Reduce(0, True, 0), Levels(1e6, 0), "a mean of 65535 does not fit a shift"),
    ],
)
def test_steps_of_sequences(new_net, step, levels, message):
    made = new_net((FREE, 6))
    made.net.longest = 65535
    made.net.levels[0] = LEVELS
    made.emit(Rescale(0), Levels(0.01, 5, 16))
    made.emit(step, levels)
    refused(made.net, f"step 1 ({type(step).__name__}): ")
    refused(made.net, message)


@pytest.mark.parametrize("longest", [0, 65536])
def test_a_longest_beyond_its_range(new_net, longest):
    made = new_net((FREE, 6))
    made.net.longest = longest
    refused(made.net, f"value 0, the input: a longest of {longest}; 1…65535 are possible")


def test_sums_over_the_longest_fit(new_net):
    made = new_net((FREE, 6), bits=16)
    made.net.longest = 65535
    made.reduce(0, True, 0)
    refused(made.net, "step 0 (Reduce): its sums may reach")
