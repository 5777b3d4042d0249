"""A traced program: equal to the function at any number of windows, constants computed ahead."""

import pytest
import torch

from hypernet.decompositions import TABLE
from hypernet.lengths import MANY, length, refuse_counted
from hypernet.tracing import trace


def scaled(x: torch.Tensor, y: torch.Tensor, factor: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Two results of windows and numbers; from the constant follows another."""
    return x * (factor + 1), (x.mean() * y).sum()


@pytest.fixture
def program():
    inputs = {"windows": torch.ones(5, 2, 3), "labels": torch.ones(5)}
    return trace(scaled, inputs, ("windows", "labels"), (torch.tensor(2.0),), TABLE)


def run(program, *inputs):
    """As the exporter reads it: constants first; nothing checks the example's lengths."""
    return torch.fx.Interpreter(program.graph_module).run(*program.constants.values(), *inputs)


@pytest.mark.parametrize("count", [1, 2, 5, 33])
def test_it_takes_any_number_of_windows(program, count):
    x, y = torch.randn(count, 2, 3), torch.randn(count)
    expected = scaled(x, y, torch.tensor(2.0))
    for found, wanted in zip(run(program, x, y), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_what_follows_from_constants_is_computed_ahead(program):
    (held,) = program.constants.values()
    assert held.item() == 3.0


def test_views_of_the_same_shape_are_left_out():
    def viewed(x: torch.Tensor) -> torch.Tensor:
        return (x.reshape(-1, 6).view(-1, 6) * 2).view(-1, 3, 2)

    traced = trace(viewed, {"windows": torch.ones(4, 3, 2)}, ("windows",), (), TABLE)
    views = traced.graph.find_nodes(op="call_function", target=torch.ops.aten.view.default)
    assert len(views) == 2
    x = torch.randn(5, 3, 2)
    assert torch.equal(run(traced, x)[0], 2 * x)


COUNTED = {
    "mean": lambda x: x.mT.sum() / x.mT.numel(),
    "neighbours": lambda x: (x[1:] - x[:-1]).reshape(-1, 3).sum(0) / (x.shape[0] - 1),
    "interleaved": lambda x: torch.stack([x, 2 * x], 1).reshape(2 * x.shape[0], -1),
    "ends": lambda x: torch.cat([x[-1:], x[x.shape[0] // x.shape[0] :]]),
    "spread": lambda x: x.mean((1, 2)).repeat_interleave(3).view(x.shape[0] * 3),
}


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("count", [2, 7])
def test_what_is_counted_in_windows_is_counted_anew(name, count):
    function = COUNTED[name]
    traced = trace(function, {"windows": torch.ones(4, 3, 2)}, ("windows",), (), TABLE)
    x = torch.randn(count, 3, 2)
    torch.testing.assert_close(run(traced, x)[0], function(x))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x[:, None, 0] * x[None, :, 0]).reshape(-1),  # windows × windows
        lambda x: x * (1 / x.shape[0]),
        lambda x: x * (0.5 * x.shape[0]),
        lambda x: x * torch.tensor(x.shape[0]),
        lambda x: x * torch.tensor(float(x.shape[0])),
        lambda x: x * torch.tensor([1.0, 1 / x.shape[0]]),
        lambda x: x * torch.tensor(1 / (3 * x.shape[0])),
    ],
)
def test_what_cannot_be_counted_anew_is_refused(function):
    with pytest.raises((ValueError, RuntimeError)):
        trace(function, {"windows": torch.ones(4, 3, 2)}, ("windows",), (), TABLE)


def test_lengths():
    assert length(3 * MANY - 2) == (3, -2)
    assert length(-MANY) == (-1, 0)
    for without in (0, -1, 50_000_000, (1 << 63) - 1):
        assert length(without) == (0, without)
    for unclear in (MANY + 50_000, MANY * 20_000):
        with pytest.raises(ValueError, match="follows from"):
            length(unclear)
    for number in (0.0, 0.5, 1e-5, 1e-8, 1e-12, 1e30, float("inf")):
        refuse_counted(number)
    for number in (1 / MANY, 3 / MANY, 0.5 * MANY, MANY / 3, 5.0 * MANY):
        with pytest.raises(ValueError, match="compute it with tensors"):
            refuse_counted(number)
