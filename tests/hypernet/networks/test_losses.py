import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hypernet.networks.losses import cross_entropy, log_softmax


@given(
    st.integers(1, 6), st.integers(2, 7), st.sampled_from([0.0, 0.05, 0.5]), st.integers(0, 2**31)
)
def test_cross_entropy_and_its_gradient_are_torchs(windows, classes, smoothing, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(windows, classes, generator=generator, dtype=torch.float64)
    y = torch.randint(classes, (windows,), generator=generator)
    gradients = []
    for loss in (
        cross_entropy,
        lambda z, y, s: torch.nn.functional.cross_entropy(z, y, label_smoothing=s),
    ):
        z = logits.clone().requires_grad_()
        value = loss(z, y, smoothing)
        value.backward()
        gradients.append((value.detach(), z.grad))
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_huge_logits_do_not_overflow(scale):
    logits = torch.tensor([[scale, -scale, 0.0]], requires_grad=True)
    loss = cross_entropy(logits, torch.tensor([1]))
    loss.backward()
    assert loss.item() == pytest.approx(2 * scale)
    assert torch.isfinite(logits.grad).all()


def test_log_softmax_is_torchs():
    logits = 30 * torch.randn(5, 4)
    torch.testing.assert_close(log_softmax(logits), torch.log_softmax(logits, 1))
