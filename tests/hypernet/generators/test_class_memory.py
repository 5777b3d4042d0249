"""One map for all classes: batches equal single conditions, and no parameter belongs to a class."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hypernet.generators.class_memory import ClassMemory

CLASSES, LATENT, CHANNELS = 4, 5, 6
LENGTH = CLASSES * (LATENT + 1)


def made(seed=0, blocks=1, head=None, zero=False):
    torch.manual_seed(seed)
    drawn = torch.randn(CLASSES, LATENT)
    memory = ClassMemory(
        torch.randn(LENGTH),
        drawn if head is None else head,
        CLASSES,
        CHANNELS,
        "abc",
        width=8,
        blocks=blocks,
        heads=2,
    )
    if not zero:
        torch.nn.init.normal_(memory.say.weight)
    return memory.double()


def some(count, seed=0):
    generator = torch.Generator().manual_seed(seed + 100)
    return torch.randn(count, CLASSES * CHANNELS, generator=generator).double()


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 5), st.integers(1, 3), st.integers(0, 2**20))
def test_a_cohort_equals_its_devices_one_by_one(cohort, blocks, seed):
    memory, conditions = made(seed, blocks), some(cohort, seed)
    deltas = torch.randn(cohort, LENGTH).double()
    single = torch.cat([memory.generate(row[None]) for row in conditions])
    torch.testing.assert_close(memory.generate(conditions), single)
    own, total = [], {n: torch.zeros_like(p) for n, p in memory.named_parameters()}
    for condition, delta in zip(conditions, deltas, strict=True):
        memory.zero_grad()
        own.append(memory.pull_back(condition[None], delta[None])[0])
        for name, parameter in memory.named_parameters():
            total[name] += parameter.grad / cohort
    memory.zero_grad()
    torch.testing.assert_close(memory.pull_back(conditions, deltas), torch.stack(own))
    for name, parameter in memory.named_parameters():
        torch.testing.assert_close(parameter.grad, total[name])


def test_before_training_everyone_gets_the_start_and_the_mean_condition_always_does():
    memory = made(zero=True)
    assert torch.equal(memory.generate(some(3)), memory.start.expand(3, -1))
    memory = made()
    memory.standardise(some(20))
    torch.testing.assert_close(memory.generate(memory.center[None])[0], memory.start)


def test_renumbered_classes_get_the_same_rows():
    order = torch.tensor([2, 0, 3, 1])
    head = torch.randn(CLASSES, LATENT, generator=torch.Generator().manual_seed(5))
    memory, other = made(head=head, blocks=2), made(head=head[order], blocks=2)
    for each in (memory, other):
        torch.nn.init.zeros_(each.start)
    condition = some(1)
    renumbered = condition.reshape(CLASSES, CHANNELS)[order].flatten()[None]
    rows = memory.generate(condition).reshape(CLASSES, -1)
    assert (rows[0] != rows[1]).any()
    torch.testing.assert_close(other.generate(renumbered).reshape(CLASSES, -1), rows[order])


def test_a_class_hears_of_the_others():
    memory, condition = made(), some(1)
    moved = condition.clone()
    moved[0, :CHANNELS] += 1
    rows = [memory.generate(each).reshape(CLASSES, -1) for each in (condition, moved)]
    assert ((rows[0] - rows[1]).abs().sum(1) > 1e-6).all()
    for look in memory.look:
        torch.nn.init.zeros_(look.out.weight)
    rows = [memory.generate(each).reshape(CLASSES, -1) for each in (condition, moved)]
    assert ((rows[0] - rows[1]).abs().sum(1) > 1e-6).tolist() == [True] + [False] * 3


def test_a_new_slot_is_read_by_new_conditions_alone_and_travels():
    memory = made(blocks=2)
    old, new = some(4), some(1, 5)
    before, fresh = memory.generate(old), memory.generate(new)
    slot = memory.add_slot(new[0], old).double()
    assert torch.equal(memory.generate(new), fresh)
    torch.nn.init.normal_(slot.values)
    assert torch.equal(memory.generate(old), before)
    assert not torch.allclose(memory.generate(new), fresh)
    other = made(seed=9, blocks=2, head=memory.head)
    other.load_state_dict(memory.state_dict())
    other.double().head.copy_(memory.head)  # the head is the backbone's, no part of the state
    assert torch.equal(other.generate(new), memory.generate(new))


@pytest.mark.parametrize(
    ("tokens", "length", "said"),
    [(2, LENGTH, "2 tokens and"), (CLASSES, LENGTH + 7, f"{LENGTH + 7} numbers for 4 classes")],
)
def test_other_conditions_and_adapters_are_refused(tokens, length, said):
    with pytest.raises(ValueError, match=said):
        ClassMemory(torch.zeros(length), torch.randn(CLASSES, LATENT), tokens, CHANNELS)
