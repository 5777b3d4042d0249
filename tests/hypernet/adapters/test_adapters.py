"""Every adapter against the obvious: its merged weight, one device and one window at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hypernet.adapters import (
    Adapter,
    Bone,
    Compacter,
    Layer,
    Lora,
    Rows,
    ScaleShift,
    adapter_class,
)

ALL = [Lora, Bone, Compacter, ScaleShift, Rows]


def conv_or_linear():
    sizes = st.integers(1, 7)
    conv = st.builds(
        Layer,
        sizes,
        sizes,
        st.integers(1, 5),
        st.integers(1, 3),
        st.integers(0, 3),
        st.integers(1, 2),
    )
    return st.one_of(conv, st.builds(Layer, sizes, sizes))


def frozen(layer, bias=True):
    weight = torch.randn(layer.outputs, layer.inputs, *layer.taps).double()
    return weight, torch.randn(layer.outputs).double() if bias else None


def factors_of(adapter, *devices):
    return {n: torch.randn(*devices, *shape).double() for n, shape in adapter.shapes.items()}


def module_of(layer, weight, bias):
    """torch's own layer with these weights."""
    if layer.kernel:
        made = nn.Conv1d(
            layer.inputs,
            layer.outputs,
            layer.kernel,
            layer.stride,
            layer.padding,
            layer.dilation,
            bias=bias is not None,
        )
    else:
        made = nn.Linear(layer.inputs, layer.outputs, bias=bias is not None)
    made = made.double()
    made.weight.data = weight
    if bias is not None:
        made.bias.data = bias
    return made


def inputs_of(layer, count, extra=()):
    time = layer.dilation * (layer.kernel - 1) + 4
    shape = (count, layer.inputs, time) if layer.kernel else (count, *extra, layer.inputs)
    return torch.randn(shape).double()


@pytest.mark.parametrize("kind", ALL)
@settings(max_examples=20, deadline=None)
@given(
    conv_or_linear(),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 3),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_applied_equals_merged_device_by_device(kind, layer, rank, devices, windows, bias, seed):
    torch.manual_seed(seed)
    adapter = kind(layer, rank, 0.7)
    weight, offset = frozen(layer, bias)
    kept = weight.clone()
    factors = factors_of(adapter, devices)
    x = inputs_of(layer, devices * windows, (2,))
    together = adapter.apply(x, weight, offset, factors)
    slow = []
    for device in range(devices):
        own = {name: factor[device] for name, factor in factors.items()}
        module = module_of(layer, *adapter.merge(weight, offset, own))
        slow += [module(window[None])[0] for window in x[device * windows :][:windows]]
    torch.testing.assert_close(together, torch.stack(slow))
    assert torch.equal(weight, kept)
    merged, _ = adapter.merge(weight, offset, factors)
    assert merged.shape == (devices, *weight.shape)


@pytest.mark.parametrize("kind", ALL)
@settings(max_examples=10, deadline=None)
@given(conv_or_linear(), st.integers(1, 4), st.booleans())
def test_it_starts_with_no_change_and_can_learn(kind, layer, rank, bias):
    adapter = kind(layer, rank)
    weight, offset = frozen(layer, bias)
    start = adapter.start(torch.Generator().manual_seed(0))
    assert {name: tuple(f.shape) for name, f in start.items()} == adapter.shapes
    leaves = {name: f.double().requires_grad_() for name, f in start.items()}
    x = inputs_of(layer, 3)
    out = adapter.apply(x, weight, offset, leaves)
    torch.testing.assert_close(out, module_of(layer, weight, offset)(x))
    out.square().sum().backward()
    assert any(leaf.grad is not None and leaf.grad.abs().sum() > 0 for leaf in leaves.values())


def test_the_formulas():
    layer = Layer(3, 4)
    weight, _ = frozen(layer)
    lora = Lora(layer, 2, 0.5)
    f = factors_of(lora)
    torch.testing.assert_close(lora.merge(weight, None, f)[0], weight + 0.5 * f["up"].T @ f["down"])
    compacter = Compacter(Layer(4, 4), 2)
    f = factors_of(compacter)
    zero = torch.zeros(4, 4).double()
    product = sum(
        torch.kron(f["slow"][i], torch.outer(f["left"][i], f["right"][i])) for i in range(2)
    )
    torch.testing.assert_close(compacter.merge(zero, None, f)[0], product)
    bone = Bone(layer, 3)
    f = factors_of(bone)
    change = bone.merge(torch.zeros(3, 4).double(), None, f)[0]
    torch.testing.assert_close(change, torch.cat([f["block"].T, f["block"].T[:, :1]], 1))
    rows = Rows(layer, scale=0.5)
    f = factors_of(rows)
    weights, bias = rows.merge(weight, torch.ones(3).double(), f)
    torch.testing.assert_close(weights, weight + 0.5 * f["rows"][:, :4])
    torch.testing.assert_close(bias, 1 + 0.5 * f["rows"][:, 4])
    scale = ScaleShift(layer)
    f = factors_of(scale)
    x = torch.randn(5, 4).double()
    torch.testing.assert_close(
        scale.apply(x, weight, None, f), (1 + f["gain"]) * (x @ weight.T) + f["shift"]
    )


def test_layers_are_read_from_modules():
    assert Layer.of(nn.Conv1d(3, 5, 7, 2, 1, 3)) == Layer(5, 3, 7, 2, 1, 3)
    assert Layer.of(nn.Linear(3, 5)) == Layer(5, 3)


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv1d(4, 4, 3, groups=2),
        nn.Conv1d(4, 4, 3, padding="same"),
        nn.Conv1d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.Conv2d(4, 4, 3),
        nn.ReLU(),
    ],
)
def test_other_layers_are_refused(module):
    with pytest.raises(TypeError, match="plain 1-D convolutions"):
        Layer.of(module)


def test_a_rank_of_zero_is_refused():
    with pytest.raises(ValueError, match="rank 0; at least 1"):
        Lora(Layer(2, 2), 0)


def test_the_seam_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        Adapter(Layer(1, 1))


def test_adapters_are_found_by_name():
    names = {"lora": Lora, "bone": Bone, "compacter": Compacter}
    names |= {"rows": Rows, "scale-shift": ScaleShift}
    assert {name: adapter_class(name) for name in names} == names
    with pytest.raises(ValueError, match="no adapter 'none'; installed: bone, compacter, lora"):
        adapter_class("none")
