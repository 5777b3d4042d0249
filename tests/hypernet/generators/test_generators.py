"""Pull-backs of a whole cohort against the obvious sum, one device at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hypernet.generators import Hypernetwork, WeightGenerator


class Plain(WeightGenerator):
    """A generator of one's own: conditions times a matrix, and a parameter that takes no part."""

    def __init__(self, condition, length):
        super().__init__()
        self.matrix = torch.nn.Parameter(torch.randn(condition, length))
        self.idle = torch.nn.Parameter(torch.ones(2))
        self.frozen = torch.nn.Parameter(torch.ones(length), requires_grad=False)

    def generate(self, conditions):
        return torch.tanh(conditions @ self.matrix) * self.frozen


def hypernetwork(length, embedding, chunk=4, zero_head=False):
    made = Hypernetwork(torch.randn(length), embedding, hidden=5, code=3, chunk=chunk)
    if not zero_head:
        torch.nn.init.normal_(made.head.weight)
    return made.double()


def one_at_a_time(generator, conditions, deltas):
    """(∂θ/∂φ)ᵀΔ averaged and (∂θ/∂v)ᵀΔ of each, by autograd on ⟨θ, Δ⟩ of single devices."""
    total = {name: torch.zeros_like(p) for name, p in generator.named_parameters()}
    own = []
    for condition, delta in zip(conditions, deltas, strict=True):
        generator.zero_grad()
        leaf = condition.clone().requires_grad_()
        (generator.generate(leaf[None])[0] * delta).sum().backward()
        own.append(leaf.grad)
        for name, parameter in generator.named_parameters():
            if parameter.grad is not None:
                total[name] += parameter.grad / len(deltas)
    generator.zero_grad()
    return total, torch.stack(own)


sizes = st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 17))


@settings(max_examples=60, deadline=None)
@given(sizes, st.integers(1, 20), st.integers(0, 2**31))
def test_pull_back_is_the_mean_of_single_ones(size, chunk, seed):
    cohort, embedding, length = size
    torch.manual_seed(seed)
    generator = hypernetwork(length, embedding, chunk)
    conditions = torch.randn(cohort, embedding).double()
    deltas = torch.randn(cohort, length).double()
    total, own = one_at_a_time(generator, conditions, deltas)
    torch.testing.assert_close(generator.pull_back(conditions, deltas), own)
    for name, parameter in generator.named_parameters():
        torch.testing.assert_close(parameter.grad, total[name])


def test_pull_back_in_float32():
    torch.manual_seed(0)
    generator = hypernetwork(100, 8, 16).float()
    conditions, deltas = torch.randn(16, 8), torch.randn(16, 100)
    total, own = one_at_a_time(generator, conditions, deltas)
    torch.testing.assert_close(generator.pull_back(conditions, deltas), own, rtol=1e-4, atol=1e-5)
    for name, parameter in generator.named_parameters():
        torch.testing.assert_close(parameter.grad, total[name], rtol=1e-4, atol=1e-5)


def test_pull_back_accumulates():
    generator = hypernetwork(9, 3)
    conditions, deltas = torch.randn(2, 3).double(), torch.randn(2, 9).double()
    generator.pull_back(conditions, deltas)
    once = generator.centre.grad.clone()
    generator.pull_back(conditions, deltas)
    torch.testing.assert_close(generator.centre.grad, 2 * once)
    torch.testing.assert_close(once, deltas.mean(0))


def test_another_generator_is_one_method():
    generator = Plain(3, 5)
    conditions, deltas = torch.randn(4, 3), torch.randn(4, 5)
    total, own = one_at_a_time(generator, conditions, deltas)
    torch.testing.assert_close(generator.pull_back(conditions, deltas), own)
    torch.testing.assert_close(generator.matrix.grad, total["matrix"])
    assert generator.idle.grad is None
    assert generator.frozen.grad is None


def test_conditions_that_play_no_part_get_zeros():
    class Constant(Plain):
        def generate(self, conditions):
            return self.matrix[:1].expand(len(conditions), -1)

    gradient = Constant(3, 5).pull_back(torch.randn(4, 3), torch.randn(4, 5))
    assert torch.equal(gradient, torch.zeros(4, 3))


def test_pull_back_leaves_the_callers_tensors_alone():
    generator = hypernetwork(9, 3)
    conditions = torch.randn(2, 3).double()
    generator.pull_back(conditions, torch.randn(2, 9).double())
    assert not conditions.requires_grad
    assert conditions.grad is None


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("conditions", "deltas", "message"),
    [
        (torch.ones(2, 3), torch.ones(3, 9), "2 conditions and 3 changes"),
        (torch.ones(0, 3), torch.ones(0, 9), "0 conditions and 0 changes"),
        (torch.ones(2, 3), torch.ones(2, 8), r"changes \(2, 8\); expected \(2, 9\)"),
        (torch.ones(2, 3), torch.tensor([[1.0] * 9, [1.0] * 8 + [NAN]]), "NaN or infinity"),
        (torch.ones(2, 3), torch.tensor([[1.0] * 9, [-INFINITE] * 9]), "NaN or infinity"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_accumulated(conditions, deltas, message):
    generator = hypernetwork(9, 3)
    with pytest.raises(ValueError, match=message):
        generator.pull_back(conditions.double(), deltas.double())
    assert all(parameter.grad is None for parameter in generator.parameters())


def test_a_gradient_step_brings_generated_closer_to_learned():
    torch.manual_seed(1)
    generator = hypernetwork(40, 4, zero_head=True).float()
    conditions, learned = torch.randn(6, 4), torch.randn(6, 40)
    optimizer = torch.optim.Adam(generator.parameters(), 0.05)
    distances = []
    for _ in range(60):
        with torch.no_grad():
            deltas = generator.generate(conditions) - learned
        distances.append(deltas.norm().item())
        optimizer.zero_grad()
        generator.pull_back(conditions, deltas)
        optimizer.step()
    assert distances[-1] < 0.6 * distances[0]


@pytest.mark.parametrize("length", [1, 15, 16, 17, 64])
def test_a_hypernetwork_starts_at_its_centre(length):
    centre = torch.randn(length)
    generator = Hypernetwork(centre, 4, chunk=16)
    generated = generator.generate(100 * torch.randn(3, 4))
    assert torch.equal(generated, centre.expand(3, -1))
    assert generator.centre.data_ptr() != centre.data_ptr()


def test_persons_differ_once_the_head_has_moved():
    generator = hypernetwork(33, 4)
    one, two = generator.generate(torch.randn(2, 4).double())
    assert (one != two).all()


def test_chunks_of_one_vector_differ():
    generator = hypernetwork(32, 4, chunk=8)
    residual = (generator.generate(torch.randn(1, 4).double())[0] - generator.centre).reshape(4, 8)
    assert (residual[0] != residual[1]).all()


def test_it_stays_small():
    """A head a tensor would cost 13 M here."""
    generator = Hypernetwork(torch.zeros(200_000), 16)
    assert sum(p.numel() for p in generator.parameters()) < 2_000_000
    assert generator.generate(torch.zeros(2, 16)).shape == (2, 200_000)


def test_the_seam_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        WeightGenerator()
