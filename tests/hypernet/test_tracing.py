"""A traced program: equal to the function at any number of windows, constants computed ahead."""

import pytest
import torch

from hypernet.decompositions import TABLE
from hypernet.tracing import trace


def scaled(x: torch.Tensor, y: torch.Tensor, factor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Two results of windows and numbers; from the constant follows another."""
    return x * (factor + 1), (x.mean() * y).sum()


@pytest.fixture
def program():
    inputs = {"windows": torch.ones(5, 2, 3), "labels": torch.ones(5)}
    return trace(scaled, inputs, ("windows", "labels"), (torch.tensor(2.0),), TABLE)


@pytest.mark.parametrize("count", [1, 2, 5, 33])
def test_it_takes_any_number_of_windows(program, count):
    x, y = torch.randn(count, 2, 3), torch.randn(count)
    expected = scaled(x, y, torch.tensor(2.0))
    for found, wanted in zip(program.module()(x, y), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_windows_and_labels_share_one_free_axis(program):
    x, y = [node.meta["val"] for node in program.graph.find_nodes(op="placeholder")][-2:]
    assert not isinstance(x.shape[0], int)
    assert str(x.shape[0]) == str(y.shape[0])
    assert list(x.shape[1:]) == [2, 3]


def test_what_follows_from_constants_is_computed_ahead(program):
    (held,) = program.constants.values()
    assert held.item() == 3.0


def test_a_count_of_elements_becomes_a_product_of_lengths():
    def mean(x: torch.Tensor) -> torch.Tensor:
        return x.mT.sum() / x.mT.numel()

    traced = trace(mean, {"windows": torch.ones(4, 3, 2)}, ("windows",), (), TABLE)
    targets = {node.target for node in traced.graph.nodes}
    assert torch.ops.aten.sym_numel.default not in targets
    x = torch.randn(7, 3, 2)
    torch.testing.assert_close(traced.module()(x), x.mean())
