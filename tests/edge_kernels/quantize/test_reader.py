import numpy as np
import pytest
import torch
from onnx import helper

from edge_kernels.bench.encoder import float_encoder
from edge_kernels.integer.net import Add, Affine, Product, Reduce, Relu, Transpose
from edge_kernels.quantize.evaluate import run as evaluate
from edge_kernels.quantize.files import load
from edge_kernels.quantize.quantizer import inputs
from edge_kernels.quantize.reader import read
from hypernet.onnx_registry import made_once
from tests.edge_kernels.quantize.small import GRAPHS, build, classifier, normal, run, windows


def kinds(net):
    return [type(step).__name__ for step in net.steps]


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_computes_the_same_as_onnx_runtime(name):
    model = GRAPHS[name]
    split = read(model)
    x = normal(6, 5, 12)
    found = evaluate(split.net, inputs(split, x))
    np.testing.assert_allclose(found, run(model, x), rtol=1e-4, atol=1e-5)


def test_the_prologue_stays_and_the_rest_is_read():
    split = read(classifier())
    assert [node.op_type for node in split.prologue.graph.node] == ["Sub", "Div", "Transpose"]
    assert split.source == "z"
    assert (
        kinds(split.net) == ["Product", "Product", "Reduce", "Reduce", "Concat"] + ["Product"] * 2
    )
    assert [s.relu for s in split.net.steps if isinstance(s, Product)] == [True, True, True, False]
    x, _ = windows(20, 3)
    found = evaluate(split.net, inputs(split, x))
    np.testing.assert_allclose(found, run(classifier(), x), rtol=1e-4, atol=1e-4)


def test_the_benchmarks_encoder():
    model = load(float_encoder(np.random.default_rng(0)))
    split = read(model)
    x = normal(3, 8, 100)
    assert not split.prologue.graph.node
    found = evaluate(split.net, inputs(split, x))
    np.testing.assert_allclose(found, run(model, x), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_the_personal_model_as_torch_exports_it():
    from hypernet.networks.inputs import InputSpec
    from hypernet.networks.personal import PersonalModel

    class Inference(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = PersonalModel(InputSpec(100, 3, ((0, 1, 2),)), 5, 2)
            self.register_buffer("mean", torch.full((4,), 0.3))
            self.register_buffer("deviation", torch.full((4,), 2.0))

        def forward(self, windows):
            return self.model.head(self.model.encode(windows, self.mean, self.deviation))

    torch.manual_seed(0)
    batch = {0: torch.export.Dim("batch")}
    with made_once():
        model = torch.onnx.export(
            Inference().eval(),
            (torch.randn(3, 100, 3),),
            input_names=["windows"],
            output_names=["logits"],
            dynamo=True,
            dynamic_shapes={"windows": batch},
            verbose=False,
        ).model_proto
    split = read(model)
    wanted = ["Product"] * 3 + ["Reduce", "Reduce", "Concat", "Product", "Product"]
    assert kinds(split.net) == wanted
    x = normal(7, 100, 3)
    found = evaluate(split.net, inputs(split, x))
    np.testing.assert_allclose(found, run(model, x), rtol=1e-4, atol=1e-5)


def test_what_follows_is_folded():
    assert kinds(read(GRAPHS["chains"]).net) == ["Product", "Reshape", "Product"]
    residual = read(GRAPHS["residual"]).net
    assert not any(isinstance(step, Relu) for step in residual.steps)
    assert any(isinstance(step, Add) and step.relu for step in residual.steps)
    assert any(isinstance(step, Affine) for step in read(GRAPHS["affine"]).net.steps)


def test_a_transposition_before_a_reduction_goes():
    nodes = [
        ("Conv", ["x", "w"], ["h"], {}),
        ("Transpose", ["h"], ["t"], {"perm": [0, 2, 1]}),
        ("ReduceMax", ["t", "axes"], ["m"], {"keepdims": 0}),
        ("MatMul", ["m", "v"], ["y"], {}),
    ]
    held = {"w": normal(4, 5, 3), "axes": np.array([1]), "v": normal(4, 2)}
    model = build(nodes, held, (5, 12), "y")
    net = read(model).net
    assert not any(isinstance(step, Transpose) for step in net.steps)
    assert [step.axis for step in net.steps if isinstance(step, Reduce)] == [1]
    x = normal(3, 5, 12)
    np.testing.assert_allclose(evaluate(net, x), run(model, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ([("Relu", ["x"], ["y"], {})], "it has no Conv, Gemm or MatMul"),
        (
            [("Conv", ["x", "w"], ["h"], {}), ("Sin", ["h"], ["y"], {})],
            r"node 'node1' \(Sin\) cannot run in integers.*replace it",
        ),
        ([("Conv", ["x", "w"], ["y"], {"group": 3})], r"'node0' \(Conv\): a grouped convolution"),
        (
            [
                ("Conv", ["x", "w"], ["h"], {}),
                ("Sqrt", ["x"], ["q"], {}),
                ("Add", ["h", "q"], ["y"], {}),
            ],
            r"\(Sqrt\) cannot run in integers",
        ),
        (
            [
                ("Conv", ["x", "w"], ["h"], {"pads": [1, 1]}),
                ("MaxPool", ["h"], ["y"], {"kernel_shape": [2], "dilations": [2]}),
            ],
            r"'node1' cannot run in integers: a pooling with dilation 2",
        ),
        (
            [
                ("Conv", ["x", "w"], ["h"], {}),
                ("Softmax", ["h"], ["s"], {"axis": 0}),
                ("Relu", ["s"], ["y"], {}),
            ],
            r"\(Softmax\) cannot run in integers: it is over the samples",
        ),
        (
            [
                ("Conv", ["x", "w"], ["h"], {}),
                ("Reshape", ["h", "to"], ["r"], {}),
                ("Softmax", ["r"], ["s"], {}),
                ("Relu", ["s"], ["y"], {}),
            ],
            r"\(Reshape\) cannot run in integers: it reshapes to \[25, -1\]: not a sample at a "
            "time; an integer network",
        ),
    ],
)
def test_what_is_not_served_is_named(nodes, says):
    weights = normal(5, 1 if "group" in nodes[0][3] else 5, 3)
    with pytest.raises(ValueError, match=says):
        read(build(nodes, {"w": weights, "to": np.array([25, -1])}, (5, 12), "y"))


def test_two_inputs_are_refused():
    model = classifier().__class__()
    model.CopyFrom(classifier())
    model.graph.input.append(helper.make_tensor_value_info("mean_now", 1, [3]))
    with pytest.raises(ValueError, match=r"reads \['x', 'mean_now'\].*make the person's"):
        read(model)


def test_two_outputs_are_refused():
    model = classifier().__class__()
    model.CopyFrom(classifier())
    model.graph.output.append(helper.make_tensor_value_info("h", 1, None))
    with pytest.raises(ValueError, match=r"of the outputs \['logits', 'h'\] keep one") as caught:
        read(model)
    assert "person" not in str(caught.value)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
def test_odds_at_the_end_stay_in_float(op):
    model = classifier().__class__()
    model.CopyFrom(classifier())
    model.graph.node.append(helper.make_node(op, ["logits"], ["odds"], axis=-1))
    model.graph.output[0].name = "odds"
    split = read(model)
    assert split.result == "logits"
    assert [node.op_type for node in split.epilogue[0]] == [op]
    assert kinds(split.net) == kinds(read(classifier()).net)


def test_an_unknown_length_is_refused():
    nodes = [("Conv", ["x", "w"], ["y"], {})]
    model = build(nodes, {"w": normal(4, 5, 3)}, (5, "time"), "y")
    with pytest.raises(ValueError, match=r"'x', whose shape.*export with fixed sizes"):
        read(model)


@pytest.mark.parametrize("served", [False, True])
def test_layers_that_stay_in_float_before_the_first_are_told(served, recwarn):
    pads = {"pads": [0, 1]} if served else {"auto_pad": "SAME_UPPER"}
    nodes = [
        ("Conv", ["x", "w"], ["c"], {"strides": [2], **pads}),
        ("Flatten", ["c"], ["f"], {}),
        ("Gemm", ["f", "v"], ["y"], {}),
    ]
    split = read(build(nodes, {"w": normal(5, 5, 3), "v": normal(30, 4)}, (5, 12), "y"))
    assert (len(split.prologue.graph.node) == 0) == served
    told = [str(each.message) for each in recwarn.list if "stay in float" in str(each.message)]
    assert told == [
        "layers before 'f', where the integers begin, stay in float: node 'node0' (Conv): auto_pad "
        "is SAME_UPPER with a stride: its pads depend on the length"
    ] * (not served)


def test_layers_that_no_kernel_serves_are_told():
    nodes = [
        ("ConvTranspose", ["x", "w"], ["c"], {"dilations": [2]}),
        ("Conv", ["c", "v"], ["y"], {}),
    ]
    model = build(nodes, {"w": normal(5, 4, 2), "v": normal(4, 4, 3)}, (5, 12), "y")
    with pytest.warns(UserWarning, match=r"'node0' \(ConvTranspose\): no kernel serves such a"):
        read(model)


def test_a_dropout_that_drops_is_refused():
    nodes = [
        ("Conv", ["x", "w"], ["c"], {}),
        ("Dropout", ["c", "ratio", "training"], ["y"], {}),
    ]
    constants = {"w": normal(4, 5, 3), "ratio": np.float32(0.5)}
    read(build(nodes, constants | {"training": np.array(False)}, (5, 12), "y"))
    with pytest.raises(ValueError, match=r"'node1' \(Dropout\) drops at random: .* eval mode"):
        read(build(nodes, constants | {"training": np.array(True)}, (5, 12), "y"))


def test_a_layer_that_the_output_does_not_need_is_no_first_one():
    nodes = [
        ("Abs", ["x"], ["a"], {}),
        ("Conv", ["a", "w"], ["unread"], {}),
        ("Conv", ["x", "w"], ["y"], {}),
    ]
    split = read(build(nodes, {"w": normal(4, 5, 3)}, (5, 12), "y"))
    assert (split.source, kinds(split.net)) == ("x", ["Product"])


def test_one_channel_with_a_function_is_flattened():
    nodes = [
        ("Conv", ["x", "w"], ["c"], {}),
        ("Tanh", ["c"], ["t"], {}),
        ("Flatten", ["t"], ["f"], {}),
        ("Gemm", ["f", "v"], ["y"], {}),
    ]
    model = build(nodes, {"w": normal(1, 5, 3), "v": normal(10, 4)}, (5, 12), "y")
    split, x = read(model), normal(6, 5, 12)
    found, right = evaluate(split.net, inputs(split, x)), run(model, x)
    assert found.shape == right.shape == (6, 4)
    np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-5)


def test_a_result_with_samples_and_positions_on_one_axis_is_refused():
    nodes = [
        ("Conv", ["x", "w"], ["c"], {}),
        ("Tanh", ["c"], ["t"], {}),
        ("Reshape", ["t", "shape"], ["y"], {}),
    ]
    constants = {"w": normal(3, 5, 3), "shape": np.array([-1, 10])}
    with pytest.raises(ValueError, match="'y' has samples and positions on one axis"):
        read(build(nodes, constants, (5, 12), "y"))


CONV = ("Conv", ["x", "w"], ["c"], {})
PADDED = ("Pad", ["x", "ten"], ["p"], {})
MESSAGES = {
    "a quotient": (
        [CONV, ("ReduceMean", ["c", "last"], ["m"], {}), ("Div", ["c", "m"], ["y"], {})],
        r"\(Div\).*: both of its operands depend on the input; it needs a constant one",
    ),
    "a sum of shapes": (
        [CONV, ("MaxPool", ["c"], ["m"], {"kernel_shape": [2]}), ("Add", ["c", "m"], ["y"], {})],
        r"\(Add\).*: it adds shapes \(5, 10\) and \(5, 9\); equal ones are served",
    ),
    "a token": (
        [CONV, ("Shape", ["x"], ["sizes"], {"end": 1}),
         ("Concat", ["sizes", "rest"], ["all"], {"axis": 0}),
         ("Expand", ["token", "all"], ["tokens"], {}),
         ("Div", ["tokens", "c"], ["y"], {})],
        r"\(Div\).* reads tokens, .*: it is the constant 'token', the same for all samples",
    ),
    "training": (
        [CONV, ("BatchNormalization", ["c", *"sssu"], ["y", "mean", "var"], {"training_mode": 1})],
        r"\(BatchNormalization\).* more than one output, as in training: export .* in eval mode",
    ),
    "pads": (
        [PADDED, ("Conv", ["p", "w"], ["y"], {"pads": [1, 2]})],
        r"its pads \(11, 2\), with those of a Pad before it, reach over its kernel's 3 positions",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MESSAGES)
def test_what_is_wrong_is_said(name):
    nodes, says = MESSAGES[name]
    held = {
        "w": normal(5, 5, 3),
        "last": np.array([2]),
        "token": normal(1, 5, 1),
        "rest": np.array([5, 1]),
        "s": normal(5),
        "u": np.abs(normal(5)),
        "ten": np.array([0, 0, 10, 0, 0, 0]),
    }
    with pytest.raises(ValueError, match=says):
        read(build(nodes, held, (5, 12), "y"))
