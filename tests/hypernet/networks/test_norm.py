import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hypernet.networks.norm import (
    BatchNorm,
    adapt_norms,
    folded,
    norms,
    rest_norms,
    set_groups,
    set_own,
)


def made(channels, groups=1):
    norm = BatchNorm(channels)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    norm.mean, norm.var = torch.randn(channels), torch.rand(channels) + 0.5
    norm.groups = groups
    return norm


def shaped(windows, channels, time):
    x = torch.randn(windows, channels, time) * 3 + torch.randn(channels, 1)
    return x if time > 1 else x[..., 0]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 4), st.integers(1, 6))
def test_groups_equal_one_norm_a_person(persons, windows, channels, time):
    norm = made(channels, persons).double().train()  # alike values have hardly a deviation
    mean, var = norm.mean, norm.var
    x = shaped(persons * windows, channels, time).double().requires_grad_()
    together = norm(x)
    parts, kept = [], []
    for part in x.split(windows):
        alone = BatchNorm(channels).double().train()
        alone.load_state_dict({**norm.state_dict(), "mean": mean, "var": var})
        parts.append(alone(part))
        kept.append((alone.mean, alone.var))
    torch.testing.assert_close(together, torch.cat(parts))
    torch.testing.assert_close(norm.mean, torch.stack([m for m, _ in kept]).mean(0))
    torch.testing.assert_close(norm.var, torch.stack([v for _, v in kept]).mean(0))
    grad = torch.randn_like(together)
    (mine,) = torch.autograd.grad(together, x, grad)
    (theirs,) = torch.autograd.grad(torch.cat(parts), x, grad)
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("time", [1, 7])
@pytest.mark.parametrize("training", [False, True])
def test_it_is_torchs_batch_norm(time, training):
    mine, torchs = made(5).train(training), torch.nn.BatchNorm1d(5, momentum=0.02).train(training)
    torchs.load_state_dict(
        {
            "weight": mine.weight,
            "bias": mine.bias,
            "running_mean": mine.mean,
            "running_var": mine.var,
            "num_batches_tracked": torch.tensor(0),
        }
    )
    for _ in range(3):
        x = shaped(9, 5, time)
        torch.testing.assert_close(mine(x), torchs(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mine.mean, torchs.running_mean)
    count = 9 * time  # torch's running variance has Bessel's correction
    start, momentum = mine.var, 1 - 0.98**3
    assert (start - torchs.running_var).abs().max() <= momentum * 20 / (count - 1)


def test_evaluation_keeps_the_running_statistics():
    norm = made(4, groups=2).eval()
    before = norm.mean.clone(), norm.var.clone()
    norm(shaped(6, 4, 5))
    assert torch.equal(norm.mean, before[0])
    assert torch.equal(norm.var, before[1])


def test_training_moves_them_by_the_momentum():
    norm = made(4).train()
    mean, var = norm.mean.clone(), norm.var.clone()
    x = shaped(6, 4, 5)
    norm(x)
    torch.testing.assert_close(norm.mean, 0.98 * mean + 0.02 * x.mean((0, 2)))
    torch.testing.assert_close(norm.var, 0.98 * var + 0.02 * x.var((0, 2), unbiased=False))
    assert not norm.mean.requires_grad


@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
def test_adapting_normalises_with_the_mix_and_keeps_it(mix):
    norm = made(4).eval()
    mean, var = norm.mean.clone(), norm.var.clone()
    x = shaped(20, 4, 5)
    norm.adapting = torch.tensor(mix)
    out = norm(x)
    torch.testing.assert_close(norm.mean, (1 - mix) * mean + mix * x.mean((0, 2)))
    torch.testing.assert_close(norm.var, (1 - mix) * var + mix * x.var((0, 2), unbiased=False))
    norm.adapting = None
    torch.testing.assert_close(out, norm(x))


def test_one_window_and_a_constant_channel_are_finite():
    for values in (torch.randn(1, 4), torch.full((5, 4, 3), 2.0)):
        norm, x = made(4).train(), values.requires_grad_()
        out = norm(x)
        out.sum().backward()
        assert torch.isfinite(out).all()
        assert torch.isfinite(x.grad).all()


def test_functional_call_returns_what_a_norm_keeps():
    norm = made(3).train()
    tensors = {name: tensor.detach().clone() for name, tensor in norm.state_dict().items()}
    called = dict(tensors)
    torch.func.functional_call(norm, called, (shaped(5, 3, 4),))
    assert not torch.equal(called["mean"], tensors["mean"])
    assert torch.equal(norm.mean, tensors["mean"])


def test_set_groups_reaches_every_norm(network):
    model = network("classifier")
    assert len(norms(model)) == 4
    set_groups(model, 3)
    assert [norm.groups for norm in norms(model)] == [3] * 4


def test_adabn_takes_each_norm_s_own_share(network):
    model = network("classifier")
    assert [norm.own for norm in norms(model)] == [0.5] * 4
    plain = repr(model)
    set_own(model, 0.8)
    assert repr(model) != plain  # graphs that hold it as a constant are others
    adapt_norms(model, keep=False)
    assert [(norm.adapting, norm.keeps) for norm in norms(model)] == [(0.8, False)] * 4
    rest_norms(model)
    assert [(norm.adapting, norm.keeps) for norm in norms(model)] == [(None, True)] * 4


def test_windows_that_do_not_share_out_evenly_are_refused():
    with pytest.raises(RuntimeError):
        made(3, groups=2).train()(torch.randn(5, 3, 4))


def convolved(norm, conv, x):
    """What a norm makes of a convolution, with the gradients of all that learns."""
    out = norm.after(conv, x)
    return [out, *torch.autograd.grad(out.square().sum(), [conv.weight, norm.weight, norm.bias])]


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 0, 1), (2, 4, 1), (1, 2, 2)])
def test_a_folded_norm_equals_the_norm(stride, padding, dilation):
    norm = made(6).double().eval()
    conv = torch.nn.Conv1d(4, 6, 3, stride, padding, dilation, bias=False).double()
    x = torch.randn(5, 4, 11, dtype=torch.float64)
    expected = convolved(norm, conv, x)
    with folded(norm):
        found = convolved(norm, conv, x)
    torch.testing.assert_close(found, expected)


def test_only_what_can_be_folded_is():
    norm, x = made(6).eval(), torch.randn(5, 4, 11)
    plain, biased = torch.nn.Conv1d(4, 6, 3, bias=False), torch.nn.Conv1d(4, 6, 3)
    linear = torch.nn.Linear(4, 6, bias=False)
    called = []
    for layer in (plain, biased, linear):
        layer.register_forward_hook(lambda *_: called.append(1))

    def calls(layer, given=x):
        called.clear()
        norm.after(layer, given)
        return len(called)

    assert calls(plain) == 1
    with folded(norm):
        assert calls(plain) == 0
        assert calls(biased) == calls(linear, x[..., 0]) == 1
        norm.train()
        assert calls(plain) == 1
        norm.eval().adapting = 0.5
        assert calls(plain) == 1
        norm.adapting = None
        assert calls(plain) == 0
    assert calls(plain) == 1


def test_a_failure_unfolds():
    norm = made(3)
    with pytest.raises(RuntimeError), folded(norm):
        raise RuntimeError
    assert not norm.folds
