import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hypernet.decompositions import TABLE, convolution_backward

small = st.integers(1, 4)


def gradients(x, weight, stride, padding, dilation, groups=1, mask=(True, True, True)):
    out = torch.nn.functional.conv1d(x, weight, None, stride, padding, dilation, groups)
    grad = torch.randn_like(out)
    arguments = ([weight.shape[0]], [stride], [padding], [dilation], False, [0], groups, list(mask))
    expected = torch.ops.aten.convolution_backward(grad, x, weight, *arguments)
    return convolution_backward(grad, x, weight, *arguments), expected


@settings(max_examples=150, deadline=None)
@given(small, small, small, st.integers(1, 6), small, st.integers(0, 5), small, st.integers(1, 24))
def test_it_equals_autograd(batch, inputs, outputs, kernel, stride, padding, dilation, time):
    assume(time + 2 * padding >= dilation * (kernel - 1) + 1)
    x = torch.randn(batch, inputs, time, dtype=torch.float64)
    weight = torch.randn(outputs, inputs, kernel, dtype=torch.float64)
    for mine, torchs in zip(*gradients(x, weight, stride, padding, dilation), strict=True):
        torch.testing.assert_close(mine, torchs)


@pytest.mark.parametrize("mask", [(i & 1 > 0, i & 2 > 0, i & 4 > 0) for i in range(8)])
def test_only_what_is_asked_for_is_made(mask):
    mine, _ = gradients(torch.randn(2, 3, 9), torch.randn(4, 3, 3), 1, 1, 1, mask=mask)
    assert [gradient is not None for gradient in mine] == list(mask)


def test_other_convolutions_are_refused():
    with pytest.raises(NotImplementedError):
        gradients(torch.randn(2, 4, 9), torch.randn(4, 2, 3), 1, 1, 1, groups=2)
    grad, x, weight = torch.randn(1, 2, 3, 3), torch.randn(1, 2, 3, 3), torch.randn(2, 2, 1, 1)
    rest = ([2], [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True] * 3)
    with pytest.raises(NotImplementedError):
        convolution_backward(grad, x, weight, *rest)
    with pytest.raises(NotImplementedError):
        convolution_backward(
            grad[0], x[0], weight[..., 0], [2], [1], [0], [1], True, [0], 1, [True] * 3
        )


def test_the_table_holds_it():
    assert TABLE[torch.ops.aten.convolution_backward.default] is convolution_backward
