"""Hostile bundles by name: how each is made of a good one, and what its refusal has to say.

Each is signed by the fleet's key unless it is about signatures, so that nothing but the check it is
meant for stands in its way.
"""

import hashlib
import zlib
from collections.abc import Callable
from typing import Any

import onnx
from onnx import TensorProto, helper

from tests.client import small_models
from tests.hostile.anatomy import Anatomy

Make = Callable[[Anatomy], Any]


def _set(path: str, value: Any) -> Make:
    """Change one value of the manifest; numbers in the path are places in a list."""

    def make(bundle: Anatomy) -> None:
        *way, last = [int(key) if key.isdigit() else key for key in path.split(".")]
        place: Any = bundle.manifest
        for key in way:
            place = place[key]
        place[last] = value

    return make


def _bomb(bundle: Anatomy) -> None:
    """64 KiB that inflate to 64 MiB, declared as such: more than one part could honestly be."""
    zeros = zlib.compress(bytes(64 << 20), 9)
    bundle.store("weights", zeros, 64 << 20, hashlib.sha256(b"").hexdigest(), "zlib")


def _silent_bomb(bundle: Anatomy) -> None:
    """The same behind a small declared size."""
    part = bundle.part("weights")
    zeros = zlib.compress(bytes(64 << 20), 9)
    bundle.store("weights", zeros, part["bytes"], part["sha256"], "zlib")


def _dense(bundle: Anatomy) -> None:
    """A declared size that no zlib stream of this length can have."""
    part = bundle.part("graph")
    part.update(bytes=200 << 20, coding="zlib")
    bundle.manifest["model"]["bytes"] += (200 << 20) - part["bytes"]


def _two_streams(bundle: Anatomy) -> None:
    part = bundle.part("reference")
    stored = zlib.compress(bytes(part["bytes"])) * 2
    bundle.store("reference", stored, part["bytes"], part["sha256"], "zlib")


def _other_model(change: Callable[[onnx.ModelProto], Any]) -> Make:
    """Another model, whole in the part graph, with true sizes and hashes."""

    def make(bundle: Anatomy) -> None:
        model = small_models.floats()
        change(model)
        data = model.SerializeToString()
        bundle.manifest["model"] = {
            "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), "holes": [],
        }  # fmt: skip
        bundle.replace("graph", data)
        at = [part["name"] for part in bundle.manifest["parts"]].index("weights")
        del bundle.manifest["parts"][at], bundle.stored[at]

    return make


def _operator(operator: str, domain: str = "", **attributes: Any) -> Make:
    def change(model: onnx.ModelProto) -> None:
        node = helper.make_node(operator, ["windows"], ["x"], "evil", domain=domain, **attributes)
        model.graph.node.append(node)
        if domain:
            model.opset_import.append(helper.make_opsetid(domain, 1))

    return _other_model(change)


def _external(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


def _claims_more(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 1 << 40


def _dims(value: Any, *sizes: Any) -> None:
    del value.type.tensor_type.shape.dim[:]
    for size in sizes:
        dim = value.type.tensor_type.shape.dim.add()
        setattr(dim, "dim_param" if isinstance(size, str) else "dim_value", size)


def _nan(bundle: Anatomy) -> None:
    bundle.replace("reference", b"\x00\x00\xc0\x7f" * (bundle.part("reference")["bytes"] // 4))


def _attribute(**values: Any) -> Make:
    def make(bundle: Anatomy) -> None:
        for name, value in values.items():
            setattr(bundle, name, value)

    return make


def _respelled(bundle: Anatomy) -> None:
    bundle.text = bundle.written().replace(b'"task":', b'"task": ')


def _twice(bundle: Anatomy) -> None:
    bundle.text = bundle.written().replace(b'"task":', b'"task":"other","task":')


def _deep(bundle: Anatomy) -> None:
    bundle.text = b"[" * 200_000


def _swapped(bundle: Anatomy) -> None:
    bundle.manifest["parts"].reverse()
    bundle.stored.reverse()


def _altered(name: str) -> Make:
    def make(bundle: Anatomy) -> None:
        at = [part["name"] for part in bundle.manifest["parts"]].index(name)
        stored = bytearray(bundle.stored[at])
        stored[len(stored) // 2] ^= 1
        bundle.stored[at] = bytes(stored)

    return make


_BODY = helper.make_graph([], "body", [], [])
_HUGE = (1 << 32) - 1

HOSTILE: dict[str, tuple[Make, str]] = {
    "magic": (_attribute(magic=b"PK\3\4zip!"), "is no bundle: begins with"),
    "older format": (_attribute(format=0), "format 0; this flwr-edge reads 1. It is older: export"),
    "too new": (_attribute(format=2), "format 2; this flwr-edge reads 1. It is newer: update"),
    "manifest of another format": (_set("format", 2), "manifest: format = 2"),
    "manifest of 4 GiB": (_attribute(lengths={"manifest": _HUGE}), f"lengths of {_HUGE} and 64"),
    "signature of 4 GiB": (_attribute(lengths={"signature": _HUGE}), f"and {_HUGE} bytes for"),
    "short signature": (_attribute(lengths={"signature": 63}), "and 0 or 64"),
    "long manifest": (_attribute(lengths={"manifest": 1 << 20}), "truncated: its manifest"),
    "something after it": (_attribute(after=b"x"), "bytes; by its manifest it has"),
    "no JSON": (_attribute(text=b"\xff\xfe"), "manifest: "),
    "an empty manifest": (_attribute(text=b""), "manifest: "),
    "deep JSON": (_deep, "manifest: "),
    "another spelling": (_respelled, "not in the canonical spelling"),
    "a key twice": (_twice, "not in the canonical spelling"),
    "an unknown key": (_set("run", "rm -rf /"), "run = 'rm -rf /': unknown key"),
    "a number that is none": (_set("input.hz", "NaN"), "input.hz"),
    "a path as a part": (_set("parts.1.name", "../../etc/passwd"), "'../../etc/passwd'"),
    "an absolute path as a part": (_set("parts.1.name", "/etc/passwd"), "'/etc/passwd'"),
    "a part twice": (_set("parts.1.name", "graph"), "parts: graph, graph, reference; expected"),
    "parts in another order": (_swapped, "parts: reference, weights, graph; expected"),
    "a part of 4 GiB": (_set("parts.0.bytes", _HUGE), "less than or equal to 268435456"),
    "a part of less than nothing": (_set("parts.0.bytes", -1), "greater than or equal to 0"),
    "an unknown coding": (_set("parts.0.coding", "pickle"), "'pickle'"),
    "a size that is not the file's": (_set("parts.0.stored", 100_000), "bytes; by its manifest"),
    "a zip bomb that says so": (_bomb, "model.bytes"),
    "a zip bomb that does not": (_silent_bomb, "its zlib stream does not hold"),
    "denser than zlib": (_dense, "zlib, cannot become 209715200"),
    "two zlib streams": (_two_streams, "its zlib stream does not hold"),
    "an altered part": (_altered("weights"), "part weights: its bytes were altered"),
    "another hash of a part": (_set("parts.1.sha256", "0" * 64), "part weights: what it restores"),
    "another hash of the model": (_set("model.sha256", "0" * 64), "do not make the model"),
    "another size of the model": (_set("model.bytes", 5), "model.bytes = 5; graph and weights"),
    "holes that overlap": (_set("model.holes.1", [0, 256]), "does not follow"),
    "holes behind the end": (_set("model.holes.2", [1 << 20, 1024]), "does not follow"),
    "holes of another size": (_set("model.holes.0.1", 1), "model.holes take"),
    "holes moved": (_set("model.holes.0.0", 1), "do not make the model"),
    "classes too many": (_set("classes", [str(n) for n in range(2000)]), "at most 1024 items"),
    "a class fewer": (_set("classes", ["rest", "walk", "run"]), "expected 3 a window"),
    "a class twice": (_set("classes", ["rest", "walk", "run", "run"]), "comes more than once"),
    "a class for a terminal": (_set("classes.0", "\x1b[2J"), "printable"),
    "windows of another length": (_set("input.time", 41), "reference: 480 bytes for (1, 41, 3)"),
    "windows of 64 GiB": (_set("input", {"time": 1 << 16, "channels": 1024, "hz": 1.0,
        "dtype": "float32", "normalisation": None}), "float32; at most 1048576"),
    "windows the other way round": (_set("input", {"time": 3, "channels": 40, "hz": 20.0,
        "dtype": "float32", "normalisation": None}), "the manifest says windows of (3, 40)"),
    "a normalisation of fewer channels": (
        _set("input.normalisation", {"mean": [0.0], "deviation": [1.0]}), "for 3 channels"),
    "a deviation of nothing": (
        _set("input.normalisation", {"mean": [0.0] * 3, "deviation": [0.0] * 3}), "greater than 0"),
    "logits of fewer classes": (_set("reference.logits", [[0.0]]), "expected 4 a window"),
    "more reference windows": (_set("reference.windows", 2), "reference: 480 bytes for (2, 40, 3)"),
    "NaN in the reference": (_nan, "NaN or infinity"),
    "a base and no difference": (_set("base", "0" * 64), "a base goes with a part"),
    "a difference and no base": (_set("parts.0.coding", "xor"), "a base goes with a part"),
    "operators it does not have": (_set("runtime.ops", ["LutMatMul"]), "the model has []"),
    "no model": (lambda b: b.replace("graph", b"\0" * b.part("graph")["bytes"]), "do not make the"),
    "an unsupported operator": (_operator("Loop", body=_BODY),
        "node 5 evil: the operator Loop of ai.onnx is not one of those that may run here; export"),
    "an unsupported operator of our own": (_operator("Shell", "flwr.edge"),
        "node 5 evil: the operator Shell of flwr.edge"),
    "an operator that fills the memory": (_operator("ConstantOfShape"), "ConstantOfShape of ai"),
    "a foreign domain": (_operator("Relu", "evil.corp"), "operators of evil.corp; allowed"),
    "a graph in an attribute": (_operator("Relu", body=_BODY), "a graph of its own"),
    "a function": (_other_model(lambda m: setattr(m.functions.add(), "name", "f")), "functions"),
    "external data": (_other_model(_external), "its data lie in another file"),
    "a tensor of a terabyte": (_other_model(_claims_more), "960 bytes for the shape"),
    "an input of another length": (
        _other_model(lambda m: _dims(m.graph.input[0], "batch", 41, 3)), "windows of (40, 3)"),
    "an output of more classes": (
        _other_model(lambda m: _dims(m.graph.output[0], "batch", 5)), "manifest says 4 logits"),
    "a second input": (
        _other_model(lambda m: m.graph.input.append(helper.make_tensor_value_info(
            "path", TensorProto.FLOAT, [1]))), "path: float32[1]; a bundle's one input is"),
    "another name of the output": (
        _other_model(lambda m: setattr(m.graph.output[0], "name", "y")), "the model makes y"),
}  # fmt: skip
