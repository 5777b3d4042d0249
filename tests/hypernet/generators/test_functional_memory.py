"""Functional memory: one pass for a cohort equals one device at a time; slots disturb nobody."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hypernet.generators.attention import cosine_squared
from hypernet.generators.conditioned import ConditionError
from hypernet.generators.functional_memory import FunctionalMemory
from hypernet.parameters import ParameterSpec

SPEC = ParameterSpec(
    names=("one.down", "one.up", "two.down", "two.up"),
    shapes=((2, 3, 5), (2, 4), (2, 4), (2, 7)),
    trainable=4,
)
TOKENS, CHANNELS = 3, 4


def made(seed=0, blocks=2, patch=4, zero=False):
    torch.manual_seed(seed)
    memory = FunctionalMemory(
        torch.randn(SPEC.length),
        SPEC,
        TOKENS,
        CHANNELS,
        "abc",
        width=8,
        blocks=blocks,
        heads=2,
        patch=patch,
    )
    if not zero:
        for head in memory.heads_of.values():
            torch.nn.init.normal_(head.weight)
    return memory.double()


def some(count, seed=0):
    torch.manual_seed(seed + 100)
    return torch.randn(count, TOKENS * CHANNELS).double()


def one_at_a_time(memory, conditions, deltas):
    total = {name: torch.zeros_like(p) for name, p in memory.named_parameters()}
    own = []
    for condition, delta in zip(conditions, deltas, strict=True):
        memory.zero_grad()
        leaf = condition.clone().requires_grad_()
        (memory.generate(leaf[None])[0] * delta).sum().backward()
        own.append(leaf.grad)
        for name, parameter in memory.named_parameters():
            total[name] += parameter.grad / len(deltas)
    memory.zero_grad()
    return total, torch.stack(own)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.integers(1, 2), st.integers(1, 20), st.integers(0, 2**20))
def test_a_cohort_equals_its_devices_one_by_one(cohort, blocks, patch, seed):
    memory = made(seed, blocks, patch)
    conditions, deltas = some(cohort, seed), torch.randn(cohort, SPEC.length).double()
    single = torch.cat([memory.generate(row[None]) for row in conditions])
    torch.testing.assert_close(memory.generate(conditions), single)
    total, own = one_at_a_time(memory, conditions, deltas)
    torch.testing.assert_close(memory.pull_back(conditions, deltas), own)
    for name, parameter in memory.named_parameters():
        torch.testing.assert_close(parameter.grad, total[name])


def test_before_training_everyone_gets_the_start():
    memory = made(zero=True)
    assert torch.equal(memory.generate(some(3)), memory.start.expand(3, -1))


def test_conditions_matter_through_cross_attention_alone():
    memory = made()
    one, two = memory.generate(some(2))
    assert not torch.allclose(one, two)
    for block in memory.blocks:
        torch.nn.init.zeros_(block.condition.out.weight)
    one, two = memory.generate(some(2))
    torch.testing.assert_close(one, two)


def test_conditions_are_standardised():
    memory = made()
    rows = some(50) * 7 + 3
    memory.standardise(rows)
    torch.testing.assert_close(memory.center, rows.mean(0))
    far = memory.distance(rows[0], rows[0] + memory.spread)
    torch.testing.assert_close(far, torch.tensor(1.0).double())


def test_every_entry_has_its_token():
    memory = made(patch=4)
    generated = memory.generate(some(2))
    assert generated.shape == (2, SPEC.length)
    assert (generated[0] != generated[1]).all()
    assert int(memory.plan.there.sum()) == 2 * (4 + 1) + 2 * (1 + 2)


@pytest.mark.parametrize(
    ("condition", "backbone", "message"),
    [
        (torch.ones(12), "abd", "of backbone abd; this memory makes adapters for abc"),
        (torch.ones(12), "", r"of backbone \(none\)"),
        (torch.ones(11), "abc", "has 11 numbers; expected 3 tokens of 4: 12"),
        (torch.tensor([1.0] * 11 + [float("nan")]), "abc", "NaN or infinity"),
        (torch.tensor([1.0] * 11 + [float("inf")]), "abc", "NaN or infinity"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_the_reason(condition, backbone, message):
    with pytest.raises(ConditionError, match=message):
        made().check(condition, backbone)


def test_what_can_be_answered_is_returned_flat():
    assert made().check(torch.ones(TOKENS, CHANNELS), "abc").shape == (12,)


def test_a_new_slot_changes_nothing_at_first_and_never_for_old_conditions():
    memory = made()
    old, new = some(4), some(1, 5)
    before, fresh = memory.generate(old), memory.generate(new)
    slot = memory.add_slot(new[0], old).double()
    assert torch.equal(memory.generate(old), before)
    assert torch.equal(memory.generate(new), fresh)
    kept = {n: p.clone() for n, p in memory.named_parameters() if not n.startswith("slots")}
    learned = [p for p in memory.parameters() if p.requires_grad]
    assert {id(p) for p in learned} == {id(p) for p in slot.parameters()}
    optimizer = torch.optim.Adam(learned, 0.1)
    wanted = torch.randn(SPEC.length).double()
    distances = []
    for _ in range(30):
        optimizer.zero_grad()
        memory.pull_back(new, memory.generate(new).detach() - wanted)
        optimizer.step()
        distances.append(float((memory.generate(new) - wanted).detach().norm()))
    assert distances[-1] < distances[0]
    assert torch.equal(memory.generate(old), before)
    assert not torch.equal(memory.generate(new), fresh)
    assert all(torch.equal(p, kept[n]) for n, p in memory.named_parameters() if n in kept)


def test_the_mean_condition_gets_the_start_and_keeps_it_whatever_is_added():
    memory = made()
    memory.standardise(some(20))
    mean = memory.center[None]
    torch.testing.assert_close(memory.generate(mean)[0], memory.start)
    old = memory.generate(some(3))
    near = mean[0] + 0.1 * memory.spread
    slot = memory.add_slot(near, some(0)).double()
    torch.nn.init.normal_(slot.values)
    assert torch.equal(memory.generate(some(3)), old)
    torch.testing.assert_close(memory.generate(mean)[0], memory.start)
    assert not torch.allclose(memory.generate(near[None])[0], memory.start, rtol=0, atol=0.05)
    with pytest.raises(ConditionError, match="it would change"):
        memory.add_slot(memory.center, some(0))


def test_a_slot_upon_an_old_condition_is_refused():
    memory = made()
    with pytest.raises(ConditionError, match="it would change"):
        memory.add_slot(some(1)[0], some(1))


def test_a_state_brings_its_slots():
    memory, new = made(), some(1, 5)
    slot = memory.add_slot(new[0], some(2)).double()
    torch.nn.init.normal_(slot.values)
    other = made(seed=9)
    other.load_state_dict(memory.state_dict())
    assert torch.equal(other.double().generate(new), memory.generate(new))


def test_one_update_for_all_is_what_the_penalty_counts():
    one = torch.randn(3, 9)
    assert float(cosine_squared(one, 2 * one)) == pytest.approx(1, abs=1e-5)
    assert float(cosine_squared(torch.eye(3), torch.eye(3).roll(1, 0))) == 0
