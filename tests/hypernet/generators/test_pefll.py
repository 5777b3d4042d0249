import torch

from hypernet.generators import PeFLL


def test_a_cohort_equals_its_devices_one_by_one():
    torch.manual_seed(0)
    generator = PeFLL(torch.randn(30), 4, "abc", hidden=6, chunk=8).double()
    torch.nn.init.normal_(generator.whole.head.weight)
    conditions, deltas = torch.randn(5, 4).double(), torch.randn(5, 30).double()
    generator.standardise(conditions)
    own, total = [], torch.zeros(30).double()
    for condition, delta in zip(conditions, deltas, strict=True):
        leaf = condition.clone().requires_grad_()
        generator.zero_grad()
        (generator.generate(leaf[None])[0] * delta).sum().backward()
        own.append(leaf.grad)
        total += generator.start.grad / 5
    generator.zero_grad()
    torch.testing.assert_close(generator.pull_back(conditions, deltas), torch.stack(own))
    torch.testing.assert_close(generator.start.grad, total)


def test_it_starts_at_its_centre():
    centre = torch.randn(30)
    generator = PeFLL(centre, 4, "abc", chunk=8)
    assert torch.equal(generator.generate(torch.randn(3, 4)), centre.expand(3, -1))
