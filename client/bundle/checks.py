"""What a bundle's model may be, and whether it runs here. Nothing is loaded for that."""

from functools import cache
from importlib.metadata import version
from typing import Final

import onnxruntime

from client.graph_check import Checked, GraphError, GraphLimits, check
from client.graph_kinds import BUNDLED, PERSONAL, Value
from schemas.bundle import MAX_PART, BundleError, Card, Manifest, version_tuple

EDGE: Final = "flwr.edge"
# Operators that compute and no more: none makes as much as a constant tells it, and none loops but
# GRU and LSTM, once for each position that their input has; their weights tell what they make.
_ONNX: Final = {
    "Abs", "Add", "And", "ArgMax", "AveragePool", "BatchNormalization", "Cast", "CastLike", "Clip",
    "Concat", "Constant", "Conv", "ConvInteger", "DequantizeLinear", "Div", "DynamicQuantizeLinear",
    "Elu", "Equal", "Erf", "Exp", "Flatten", "Floor", "GRU", "Gather", "Gelu", "Gemm",
    "GlobalAveragePool", "GlobalMaxPool", "Greater", "GroupNormalization", "HardSigmoid",
    "HardSwish", "Identity", "InstanceNormalization", "LSTM", "LayerNormalization", "LeakyRelu",
    "Less", "Log", "LogSoftmax", "LpNormalization", "MatMul", "MatMulInteger", "Max", "MaxPool",
    "Mean", "Min", "Mul", "Neg", "Not", "Or", "PRelu", "Pad", "Pow", "QLinearConv", "QLinearMatMul",
    "QuantizeLinear", "Reciprocal", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum",
    "ReduceSumSquare", "Relu", "Reshape", "Round", "Selu", "Shape", "Sigmoid", "Sign", "Slice",
    "Softmax", "Softplus", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh", "Transpose",
    "Unsqueeze", "Where",
}  # fmt: skip
_OURS: Final = frozenset({"LutMatMul", "LutConv1d", "LutSequential", "IntSequential"})
LIMITS: Final = GraphLimits(
    bytes=MAX_PART,
    opsets={"ai.onnx": (13, 30), "com.microsoft": (1, 1), "ai.onnx.ml": (1, 10), EDGE: (1, 1)},
    operators={"ai.onnx": frozenset(_ONNX), EDGE: _OURS},
    kind=PERSONAL,
)


def check_model(card: Card, model: bytes, digest: str) -> Checked:
    """Check a model, and that it is of its card.

    Parameters
    ----------
    card : Card
    model : bytes
        ONNX.
    digest : str
        Its SHA-256, for errors.

    Raises
    ------
    BundleError
        An operator, size or declaration that is not allowed, or not what the card says.
    """
    try:
        checked = check(model, digest, LIMITS)
    except GraphError as error:
        raise BundleError(str(error)) from None
    window = (card.input.time, card.input.channels)
    (given,), (made,) = checked.inputs, checked.outputs
    if given.shape is None or given.shape[1:] != window or given.shape[0] not in (None, 1):
        turned = given.shape is not None and given.shape[1:] == window[::-1] != window
        how = ": channels come last, transpose in the model" if turned else ""
        raise BundleError(f"the model takes {given}; the manifest says windows of {window}{how}")
    _check_logits(given.shape[0], made, len(card.classes))
    if card.form == "qdq" and edge_operators(checked):
        raise BundleError(
            f"form qdq with the operators {', '.join(edge_operators(checked))} of {EDGE}; "
            "a model with those has the form edge"
        )
    return checked


def _check_logits(batch: int | None, made: Value, classes: int) -> None:
    """Check what a model of a batch (None: a free one) makes."""
    if made.name != "logits":
        raise BundleError(f"the model makes {made}; {BUNDLED}")
    if made.shape is None or made.shape[1:] != (classes,):
        raise BundleError(f"the model makes {made}; the manifest says {classes} logits")
    if made.shape[0] != batch:
        own, other = ("free" if size is None else size for size in (made.shape[0], batch))
        raise BundleError(
            f"of the output logits the batch is {own}, of the input windows it is {other}; export "
            "the model with the same for both"
        )


def edge_operators(checked: Checked) -> tuple[str, ...]:
    """Operators of ``flwr.edge`` that a model has, sorted."""
    return tuple(sorted(name for domain, name in checked.operators if domain == EDGE))


def not_runnable(manifest: Manifest) -> list[str]:
    """Why a bundle does not run here, a line each; nothing where it does."""
    needed = manifest.runtime
    here = {"flwr-edge": version("flwr-edge"), "onnxruntime": onnxruntime.__version__}
    wanted = {"flwr-edge": needed.flwr_edge, "onnxruntime": needed.onnxruntime}
    problems = [
        f"needs {name} {wanted[name]} or newer; here is {here[name]}"
        for name in here
        if version_tuple(here[name]) < version_tuple(wanted[name])
    ]
    lacking = sorted(set(needed.ops) - _operators_here()) if needed.ops else []
    if lacking:
        problems.append(f"needs the operators {', '.join(lacking)}; update flwr-edge")
    return problems


@cache
def _operators_here() -> frozenset[str]:
    import edge_kernels

    return frozenset(edge_kernels.info()["ops"])
