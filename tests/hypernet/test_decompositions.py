import onnx
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hypernet.convolutions import convolution, convolution_backward
from hypernet.decompositions import (
    TABLE,
    eye,
    minus_by_rows,
    over_by_rows,
    power,
    reversed_minus,
    slice_backward,
    split,
    threshold_backward,
)

small = st.integers(1, 4)
shapes = given(
    small, small, small, st.integers(1, 6), small, st.integers(0, 5), small, st.integers(1, 24)
)


def gradients(x, weight, stride, padding, dilation, groups=1, mask=(True, True, True)):
    out = torch.nn.functional.conv1d(x, weight, None, stride, padding, dilation, groups)
    grad = torch.randn_like(out)
    arguments = ([weight.shape[0]], [stride], [padding], [dilation], False, [0], groups, list(mask))
    expected = torch.ops.aten.convolution_backward(grad, x, weight, *arguments)
    return convolution_backward(grad, x, weight, *arguments), expected


@settings(max_examples=150, deadline=None)
@shapes
def test_the_convolution_equals_torchs(
    batch, inputs, outputs, kernel, stride, padding, dilation, time
):
    assume(time + 2 * padding >= dilation * (kernel - 1) + 1)
    x = torch.randn(batch, inputs, time, dtype=torch.float64)
    weight = torch.randn(outputs, inputs, kernel, dtype=torch.float64)
    for bias in (None, torch.randn(outputs, dtype=torch.float64)):
        arguments = (x, weight, bias, [stride], [padding], [dilation], False, [0], 1)
        torch.testing.assert_close(convolution(*arguments), torch.ops.aten.convolution(*arguments))


@settings(max_examples=150, deadline=None)
@shapes
def test_its_gradients_equal_autograds(
    batch, inputs, outputs, kernel, stride, padding, dilation, time
):
    assume(time + 2 * padding >= dilation * (kernel - 1) + 1)
    x = torch.randn(batch, inputs, time, dtype=torch.float64)
    weight = torch.randn(outputs, inputs, kernel, dtype=torch.float64)
    for mine, torchs in zip(*gradients(x, weight, stride, padding, dilation), strict=True):
        torch.testing.assert_close(mine, torchs)


@pytest.mark.parametrize("mask", [(i & 1 > 0, i & 2 > 0, i & 4 > 0) for i in range(8)])
def test_only_what_is_asked_for_is_made(mask):
    mine, _ = gradients(torch.randn(2, 3, 9), torch.randn(4, 3, 3), 1, 1, 1, mask=mask)
    assert [gradient is not None for gradient in mine] == list(mask)


def test_other_convolutions_stay_as_they_are():
    x, image = torch.randn(2, 4, 9), torch.randn(1, 2, 3, 3)
    one = ([1], [0], [1])
    assert convolution(x, torch.randn(4, 2, 3), None, *one, False, [0], 2) is NotImplemented
    assert convolution(x, torch.randn(4, 2, 3), None, *one, True, [0], 1) is NotImplemented
    assert convolution(image, image, None, *one, False, [0], 1) is NotImplemented


def test_training_other_convolutions_is_refused():
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


def test_a_relus_gradient_is_torchs():
    grad, x = torch.randn(2, 50)
    for threshold in (0.0, 0.3):
        expected = torch.ops.aten.threshold_backward(grad, x, threshold)
        assert torch.equal(threshold_backward(grad, x, threshold), expected)
    assert not threshold_backward(grad, torch.zeros(50), 0).any()


def test_powers_are_torchs():
    x = torch.randn(50)
    for exponent in (1, 2, 1.0, 2.0):
        assert torch.equal(power(x, exponent), x.pow(exponent))
    assert power(x, 1) is not x
    assert power(x, 3) is NotImplemented


def test_a_reversed_difference_is_torchs():
    x = torch.randn(50)
    for alpha in (1, 2.5):
        torch.testing.assert_close(reversed_minus(x, 0.3, alpha), torch.rsub(x, 0.3, alpha=alpha))


def test_the_table_holds_them():
    aten = torch.ops.aten
    expected = {
        aten.convolution.default: convolution,
        aten.convolution_backward.default: convolution_backward,
        aten.threshold_backward.default: threshold_backward,
        aten.pow.Tensor_Scalar: power,
        aten.rsub.Scalar: reversed_minus,
        aten.slice_backward.default: slice_backward,
        aten.split_with_sizes.default: split,
        aten.sub.Tensor: minus_by_rows,
        aten.div.Tensor: over_by_rows,
        aten.eye.default: eye,
    }
    assert expected == TABLE


@pytest.mark.parametrize("sizes", [[6], [1, 5], [2, 0, 3, 1]])
def test_a_split_is_torchs(sizes):
    x = torch.randn(4, 6)
    for dim, whole in ((1, x), (-1, x), (0, x.t())):
        for mine, torchs in zip(split(whole, sizes, dim), whole.split(sizes, dim), strict=True):
            assert torch.equal(mine, torchs)


@pytest.mark.parametrize(
    ("mine", "torchs"), [(minus_by_rows, torch.sub), (over_by_rows, torch.div)]
)
def test_windows_and_a_vector_are_torchs_to_the_bit(mine, torchs):
    x, vector = torch.randn(4, 5, 3), torch.randn(3)
    assert torch.equal(mine(x, vector), torchs(x, vector))
    one_a_window, one_for_all = torch.randn(4, 1, 3), torch.randn(1)
    for other in ((x, 2.0), (x, one_a_window), (x, one_for_all), (x[0], vector), (vector, x)):
        assert mine(*other) is NotImplemented
    assert minus_by_rows(x, vector, alpha=2) is NotImplemented


@pytest.mark.parametrize("cut", [(0, 5), (2, 4), (-4, -1), (1, (1 << 63) - 1), (0, 99), (3, -1)])
@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_the_gradient_of_a_cut(dim, cut):
    x = torch.randn(5, 6, 7)
    grad = torch.randn_like(torch.ops.aten.slice(x, dim, *cut))
    arguments = (grad, list(x.shape), dim, *cut)
    expected = torch.ops.aten.slice_backward(*arguments, 1)
    torch.testing.assert_close(slice_backward(*arguments, 1), expected)
    assert slice_backward(*arguments, 2) is NotImplemented


@pytest.mark.parametrize("kind", [None, torch.float64, torch.int64])
def test_the_identity(kind):
    torch.testing.assert_close(eye(4, dtype=kind, layout=None), torch.eye(4, dtype=kind))


def test_no_step_runs_what_the_runtime_is_slow_at(graph):
    slow = {"Conv", "ConvTranspose", "Pow", "Where", "SplitToSequence"}
    for name, products, gathers in (("classifier", 4, 8), ("autoencoder", 6, 12)):
        model = onnx.load_from_string(graph("step", name, "sgd", "frozen"))
        operators = [node.op_type for node in model.graph.node]
        assert not slow & set(operators)
        # A convolution is one product with a bias, its norm's too, of what one gather picked; its
        # input's gradient takes a gather for each phase of the stride. One more gather lays the
        # length of a vector beside each of its axes (InputSpec.unit).
        assert operators.count("Gemm") == products
        assert operators.count("Gather") == gathers
