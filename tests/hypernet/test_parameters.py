from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hypernet.networks import Classifier
from hypernet.parameters import ParameterSpec, load_vector, vector_of

shapes = st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), min_size=1, max_size=6)


def spec_of(shapes, trainable=0):
    return ParameterSpec(tuple(f"t{i}" for i in range(len(shapes))), tuple(shapes), trainable)


@given(shapes, st.lists(st.integers(1, 3), max_size=2).map(tuple))
def test_flatten_and_unflatten_are_inverse(shapes, batch):
    spec = spec_of(shapes)
    vector = torch.randn(*batch, spec.length)
    tensors = spec.unflatten(vector)
    assert {name: tuple(t.shape) for name, t in tensors.items()} == {
        name: (*batch, *shape) for name, shape in zip(spec.names, shapes, strict=True)
    }
    assert torch.equal(spec.flatten(tensors), vector)


def test_a_batch_is_cut_as_its_members_are():
    spec = spec_of([(2, 3), (), (4,)])
    vectors = torch.randn(5, spec.length)
    together = spec.unflatten(vectors)
    for i, vector in enumerate(vectors):
        for name, tensor in spec.unflatten(vector).items():
            assert torch.equal(together[name][i], tensor)


def test_flatten_names_what_is_wrong():
    spec = spec_of([(2, 3), (4,)])
    with pytest.raises(ValueError, match="parameter 't1' is missing"):
        spec.flatten({"t0": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match=r"'t0' has shape \(3, 2\)"):
        spec.flatten({"t0": torch.zeros(3, 2), "t1": torch.zeros(4)})


@pytest.mark.parametrize("length", [0, 9, 11])
def test_unflatten_refuses_another_length(length):
    with pytest.raises(ValueError, match=f"a vector of {length} entries; expected 10"):
        spec_of([(2, 3), (4,)]).unflatten(torch.zeros(length))


def test_parameters_come_first_and_buffers_last(network):
    module = network("classifier")
    spec = ParameterSpec.of(module)
    assert spec.names[: spec.trainable] == tuple(n for n, _ in module.named_parameters())
    assert spec.names[spec.trainable :] == tuple(n for n, _ in module.named_buffers())
    assert spec.trainable_length == sum(p.numel() for p in module.parameters())
    assert spec.length - spec.trainable_length == sum(b.numel() for b in module.buffers())
    assert vector_of(module).shape == (spec.length,)


def test_vector_of_and_load_vector_are_inverse(network, spec):
    module = network("classifier")
    vector = torch.randn_like(vector_of(module))
    load_vector(module, vector)
    assert torch.equal(vector_of(module), vector)
    tensors = ParameterSpec.of(module).unflatten(vector)
    assert torch.equal(module.encoder.norm2.var, tensors["encoder.norm2.var"])
    assert torch.equal(module.head.weight, tensors["head.weight"])
    vector.zero_()
    assert module.head.weight.any(), "a copy, not a view"
    with pytest.raises(ValueError, match="expected"):
        load_vector(Classifier(spec, 4, 4, 4), vector)


def test_vector_of_does_not_hand_out_the_weights_themselves():
    module = nn.Linear(3, 1, bias=False)
    vector_of(module).zero_()
    assert module.weight.any()
    assert not vector_of(module).requires_grad


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=8))
def test_ranges_cover_the_wanted_and_are_joined(tensors):
    spec = spec_of([(size,) for size, _ in tensors])
    wanted = {f"t{i}" for i, (_, chosen) in enumerate(tensors) if chosen}
    ranges = spec.ranges(wanted.__contains__)
    expected = [chosen for size, chosen in tensors for _ in range(size)]
    found = [False] * spec.length
    for start, stop in ranges:
        assert start < stop
        found[start:stop] = [True] * (stop - start)
    assert found == expected
    assert all(a[1] < b[0] for a, b in pairwise(ranges)), "not joined"
