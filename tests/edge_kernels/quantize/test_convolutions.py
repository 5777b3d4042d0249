"""Convolutions with groups, and with pads and cuts beside them."""

import io

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn.functional import pad

from edge_kernels import session
from edge_kernels.integer.net import Product
from edge_kernels.quantize import quantizer, rtn
from edge_kernels.quantize.convolutions import padded, ungrouped
from edge_kernels.quantize.evaluate import run as evaluate
from edge_kernels.quantize.reader import read
from edge_kernels.sequential import fuse
from hypernet.onnx_registry import made_once
from tests.edge_kernels.quantize.small import build, normal, run

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:grouped convolutions are written out"),
]


class Separable(nn.Module):
    """Depthwise and pointwise layers, as in MobileNet; the second has two rows a channel."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv1d(6, 6, 5, 2, 2, groups=6), nn.BatchNorm1d(6), nn.ReLU()),
            *(nn.Conv1d(6, 16, 1), nn.BatchNorm1d(16), nn.ReLU()),
            *(nn.Conv1d(16, 32, 3, padding=1, groups=16), nn.ReLU()),
            *(nn.Conv1d(32, 16, 3, dilation=2, groups=4), nn.ReLU()),
        )
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.layers(x).mean(-1))


class Causal(nn.Module):
    """A temporal convolutional network that looks back alone, in one of the ways it is written."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.layers = nn.ModuleList(
            nn.Conv1d(a, 8, 3, padding=0 if way == "pad" else 2 * d, dilation=d)
            for a, d in ((6, 1), (8, 2), (8, 4))
        )
        self.norms = nn.ModuleList(nn.BatchNorm1d(8) for _ in self.layers)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        for at, (layer, norm) in enumerate(zip(self.layers, self.norms, strict=True)):
            back = 2 * 2**at
            match self.way:
                case "pad":
                    y = norm(layer(pad(x, (back, 0))))
                case "cut":
                    y = norm(layer(x)[:, :, :-back].contiguous())
                case "late":
                    y = norm(layer(x)).relu()[:, :, :-back]
                case _:
                    y = norm(layer(x)[:, :, : x.shape[2]])
            x = y.relu() + x if at else y.relu()
        return self.head(x[:, :, -1])


def trained(net):
    """With statistics as of a trained network."""
    torch.manual_seed(0)
    for each in net.modules():
        if isinstance(each, nn.BatchNorm1d):
            each.running_mean.normal_(0, 0.3)
            each.running_var.uniform_(0.5, 2)
    return net.eval()


def export(net, *, dynamo):
    x = torch.randn(2, 6, 40)
    if dynamo:
        with made_once():
            return torch.onnx.export(
                net,
                (x,),
                dynamo=True,
                verbose=False,
                input_names=["x"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
            ).model_proto
    file, axes = io.BytesIO(), {"x": {0: "batch"}}
    torch.onnx.export(net, (x,), file, dynamo=False, input_names=["x"], dynamic_axes=axes)
    return onnx.load_from_string(file.getvalue())


@pytest.fixture(scope="module", params=[False, True], ids=["older exporter", "dynamo"])
def separable(request):
    torch.manual_seed(0)
    return export(trained(Separable()), dynamo=request.param)


@pytest.fixture(
    scope="module",
    params=[(way, False) for way in ("pad", "cut", "late")]
    + [(way, True) for way in ("pad", "cut", "length")],
)
def causal(request):
    torch.manual_seed(0)
    way, dynamo = request.param
    return export(trained(Causal(way)), dynamo=dynamo)


def same(found, right):
    np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-5)


def test_groups_are_written_out(separable):
    net, x = read(separable).net, normal(6, 6, 40)
    weights = [step.weight for step in net.steps if isinstance(step, Product)]
    assert weights[0].shape == (6, 5, 6)
    same(evaluate(net, x), run(separable, x))


@pytest.mark.parametrize("bits", [8, 2])
def test_a_separable_network_runs_in_integers(separable, bits):
    x, right = normal(40, 6, 40), run(separable, normal(40, 6, 40))
    made = quantizer.quantize(separable, normal(128, 6, 40, seed=1), bits=bits, quantizer="rtn")
    found = session(quantizer.to_edge(made).SerializeToString()).run(None, {"x": x})[0]
    assert np.linalg.norm(found - right) < (0.02 if bits == 8 else 0.2) * np.linalg.norm(right)
    same(found, run(quantizer.to_qdq(made), x))


def test_what_stands_between_groups_is_not_learned(separable):
    fast = {"steps": 20, "weight_rate": 0.1}
    made = quantizer.quantize(separable, normal(64, 6, 40, seed=1), bits=8, settings=fast)
    depthwise = next(s for s in made.net.steps if isinstance(s, Product)).weight
    others = ~np.eye(6, dtype=bool)[:, None].repeat(5, 1)
    assert not depthwise[others].any()
    assert depthwise[~others].any()


def test_a_causal_network_runs_in_integers(causal):
    x, right = normal(6, 6, 40), run(causal, normal(6, 6, 40))
    split = read(causal)
    same(evaluate(split.net, x), right)
    pads = [(s.pad_begin, s.pad_end) for s in split.net.steps if isinstance(s, Product)]
    assert pads == [(2, 0), (4, 0), (8, 0), (0, 0)]
    made = quantizer.quantize(causal, normal(128, 6, 40, seed=1), quantizer="rtn")
    found = session(quantizer.to_edge(made).SerializeToString()).run(None, {"x": x})[0]
    assert np.linalg.norm(found - right) < 0.05 * np.linalg.norm(right)


def test_a_causal_network_on_lookup_kernels_is_one_operator_to_its_last_position(causal):
    low = fuse(rtn(causal, bits=4, gain=0))
    assert [node.op_type for node in low.graph.node] == ["LutSequential", "Gather", "LutMatMul"]
    x = normal(6, 6, 40)
    right = run(rtn(causal, bits=4, gain=0, fake=True), x)
    found = session(low.SerializeToString()).run(None, {"x": x})[0]
    assert np.linalg.norm(found - right) < 0.03 * np.linalg.norm(right)


CONV = ("Conv", ["p", "w"], ["y"], {"pads": [1, 0]})
PADS = {"w": normal(4, 5, 3), "pads": np.array([0, 0, 2, 0, 0, 3]), "none": np.float32(0)}


def pads_of(model):
    return [list(a.ints) for n in model.graph.node for a in n.attribute if a.name == "pads"]


@pytest.mark.parametrize("more", [{}, {"pads": np.array([2, 3]), "axes": np.array([-1])}])
def test_a_pad_becomes_all_its_convolutions(more):
    held = PADS | {"w": normal(4, 5, 4), "v": normal(4, 5, 3)} | more
    reads = ["x", "pads", "none", *(["axes"] if more else [])]
    nodes = [
        ("Pad", reads, ["p"], {}),
        CONV,
        ("Conv", ["p", "v"], ["z"], {"auto_pad": "VALID"}),
        ("Add", ["y", "z"], ["s"], {}),
    ]
    model = build(nodes, held, (5, 12), "s")
    x, right = normal(3, 5, 12), run(model, normal(3, 5, 12))
    made = padded(model)
    assert [node.op_type for node in made.graph.node] == ["Conv", "Conv", "Add"]
    assert pads_of(made) == [[3, 3], [2, 3]]
    same(run(made, x), right)


def pad_nodes(pad, conv=CONV, *more):
    return [("Pad", ["x", "pads", "none"], ["p"], pad), conv, *more]


LEFT = {
    "other than zeros": (pad_nodes({}), {"none": np.float32(1)}),
    "a mirror": (pad_nodes({"mode": "reflect"}), {}),
    "of channels": (pad_nodes({}), {"pads": np.array([0, 1, 0, 0, 0, 3]), "w": normal(4, 6, 3)}),
    "a cut": (pad_nodes({}), {"pads": np.array([0, 0, -2, 0, 0, 3])}),
    "read by another": (
        pad_nodes({}, CONV, ("ReduceMax", ["p"], ["m"], {}), ("Add", ["y", "m"], ["z"], {})),
        {},
    ),
    "pads that depend on the length": (
        pad_nodes({}, ("Conv", ["p", "w"], ["y"], {"auto_pad": "SAME_UPPER"})),
        {},
    ),
    "more than was padded": (
        [
            ("Conv", ["x", "w"], ["h"], {"pads": [1, 1]}),
            ("Slice", ["h", "from", "to", "axis"], ["y"], {}),
        ],
        {"from": np.array([0]), "to": np.array([-2]), "axis": np.array([2])},
    ),
    "a stride": (
        [
            ("Conv", ["x", "w"], ["h"], {"pads": [2, 2], "strides": [2]}),
            ("Slice", ["h", "from", "to", "axis"], ["y"], {}),
        ],
        {"from": np.array([0]), "to": np.array([-1]), "axis": np.array([2])},
    ),
    "every second": (
        [
            ("Conv", ["x", "w"], ["h"], {"pads": [2, 2]}),
            ("Slice", ["h", "from", "to", "axis", "step"], ["y"], {}),
        ],
        {
            "from": np.array([0]),
            "to": np.array([-1]),
            "axis": np.array([2]),
            "step": np.array([2]),
        },
    ),
    "channels": (
        [
            ("Conv", ["x", "w"], ["h"], {"pads": [2, 2]}),
            ("Slice", ["h", "from", "to", "axis"], ["y"], {}),
        ],
        {"from": np.array([0]), "to": np.array([-1]), "axis": np.array([1])},
    ),
    "positions that are read": (
        [
            ("Conv", ["x", "w"], ["h"], {"pads": [2, 2]}),
            ("Slice", ["h", "from", "to", "axis"], ["c"], {}),
            ("ReduceMax", ["h"], ["m"], {}),
            ("Add", ["c", "m"], ["y"], {}),
        ],
        {"from": np.array([0]), "to": np.array([-1]), "axis": np.array([2])},
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_not_surely_padding_stays(name):
    nodes, more = LEFT[name]
    model = build(nodes, PADS | more, (5, 12), "z" if name == "read by another" else "y")
    kinds = [node.op_type for node in model.graph.node]
    assert [node.op_type for node in padded(model).graph.node] == kinds


def test_a_cut_at_the_start_and_to_the_end():
    nodes = [
        ("Conv", ["x", "w"], ["h"], {"pads": [2, 2], "dilations": [2]}),
        ("Slice", ["h", "from", "to", "axis"], ["y"], {}),
    ]
    held = {"from": np.array([1]), "to": np.array([2**31 - 1]), "axis": np.array([2])}
    model = build(nodes, PADS | held, (5, 12), "y")
    x, right = normal(3, 5, 12), run(model, normal(3, 5, 12))
    assert pads_of(padded(model)) == [[1, 2]]
    same(run(model, x), right)


def test_groups_too_wide_to_write_out_are_refused_by_name():
    wide = np.zeros((2050, 1, 1), np.float32)
    model = build([("Conv", ["x", "w"], ["y"], {"group": 2050})], {"w": wide}, (2050, 4), "y")
    assert ungrouped(model).graph.node[0].input[1] == "w"
    with pytest.raises(ValueError, match=r"'node0' \(Conv\): a grouped convolution, 2050 groups"):
        read(model)


@pytest.mark.parametrize(("groups", "told"), [(4, []), (8, ["96 bytes become 192"])])
def test_layers_that_grow_are_told(groups, told, recwarn):
    weights = normal(8, 8 // groups, 3)
    read(build([("Conv", ["x", "w"], ["y"], {"group": groups})], {"w": weights}, (8, 12), "y"))
    said = [str(w.message) for w in recwarn.list if "groups" in str(w.message)]
    assert len(said) == len(told)
    assert all(f"'node0', {groups} groups: {told[0]}" in text for text in said)
