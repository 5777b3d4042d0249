"""What graphs declare, and whether the learner can run them: inputs, outputs, types, ranks."""

import math
from dataclasses import dataclass
from typing import Final

FLOAT, INT64 = 1, 7
TYPE_NAMES: Final = {FLOAT: "float32", INT64: "int64"}

# Everything that the learner hands to a graph: type and rank by name.
INPUTS: Final = {
    "windows": (FLOAT, 3),
    "labels": (INT64, 1),
    "targets": (FLOAT, 2),
    "input_mean": (FLOAT, 1),
    "input_deviation": (FLOAT, 1),
    "learning_rate": (FLOAT, 0),
    "proximal": (FLOAT, 0),
    "mix": (FLOAT, 0),
    "anchor": (FLOAT, 1),
    "mask": (FLOAT, 1),
    "weights": (FLOAT, 1),
    "state": (FLOAT, 1),
}
_SIZED: Final = ("state", "mask")  # the learner makes these, by their declared size


@dataclass(frozen=True)
class Value:
    """A declared input or output.

    Attributes
    ----------
    name : str
    type : int
        ONNX's number.
    shape : tuple[int | None, ...] or None
        None within it is a free size; None is no shape.
    """

    name: str
    type: int
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        """As an error shows it."""
        shape = "[?]" if self.shape is None else str([n or "?" for n in self.shape])
        return f"{self.name}: {TYPE_NAMES.get(self.type, f'type {self.type}')}{shape}"

    def elements(self, free: int) -> int:
        """How many there are where a free size counts as so many."""
        return math.prod(free if n is None else n for n in self.shape or ())


@dataclass(frozen=True)
class Kind:
    """One way in which the learner runs a graph.

    Attributes
    ----------
    name : str
    required, optional : frozenset[str]
        Inputs.
    outputs : tuple[int | None, ...]
        Rank of each; None is any.
    advice : str
        To who declares other inputs.
    """

    name: str
    required: frozenset[str]
    optional: frozenset[str]
    outputs: tuple[int | None, ...]
    advice: str = ""


_PERSON: Final = frozenset({"windows", "input_mean", "input_deviation", "weights"})
_STEP: Final = _PERSON | {"learning_rate", "proximal", "anchor", "mask", "state"}
TRAIN: Final = Kind("training step", _STEP, frozenset({"labels", "targets"}), (0, 1, 1))
ADAPT: Final = Kind("adaptation", _PERSON, frozenset({"labels", "mix"}), (1,))
TARGETS: Final = Kind("soft targets", _PERSON | {"labels"}, frozenset(), (2,))
FORWARD: Final = Kind("prediction or report", _PERSON, frozenset(), (None,))
# Of a model's values, for each window; see ``schemas.ranges``.
COUNTS: Final = Kind("value counts", frozenset({"windows"}), frozenset(), (3,))
STATISTICS: Final = Kind("input statistics", frozenset({"windows"}), frozenset(), (1, 1))
BUNDLED: Final = (
    "a bundle's one input is windows (batch, time, channels), its output logits: rename it, or "
    "transpose in the model"
)
# A bundle's whole model; no plan runs one, so it is only ever asked for by name.
PERSONAL: Final = Kind("personal model", frozenset({"windows"}), frozenset(), (2,), BUNDLED)


def kind_of(inputs: list[Value], outputs: list[Value], expected: Kind | None = None) -> Kind:
    """Tell how the learner may run a graph, by what it declares.

    Parameters
    ----------
    inputs, outputs : list of Value
    expected : Kind, optional
        The one that it must be.

    Raises
    ------
    ValueError
        Where it cannot: says what it declares and what is allowed.
    """
    names = {value.name for value in inputs}
    if len(names) < len(inputs):
        raise ValueError("an input is declared twice")
    if expected is not None and expected.advice and names != expected.required:
        given = ", ".join(map(str, inputs)) or "no input"
        raise ValueError(f"{expected.name} of {given}; {expected.advice}")
    for value in inputs:
        _check_input(value)
    kind = expected or _by_names(names, outputs)
    if missing := kind.required - names:
        raise ValueError(f"{kind.name} without the inputs {', '.join(sorted(missing))}")
    if extra := names - kind.required - kind.optional:
        raise ValueError(f"{kind.name} with the inputs {', '.join(sorted(extra))}")
    _check_outputs(kind, outputs)
    if kind in (TRAIN, ADAPT):
        _check_sizes(kind, {value.name: value for value in inputs}, outputs)
    return kind


def _by_names(names: set[str], outputs: list[Value]) -> Kind:
    if "learning_rate" in names:
        return TRAIN
    if "weights" not in names:
        return COUNTS if len(outputs) == 1 else STATISTICS
    if "labels" in names and len(outputs) == 1 and len(outputs[0].shape or ()) == 2:
        return TARGETS  # a row a window; an adaptation gives a vector
    return ADAPT if names & ADAPT.optional else FORWARD


def _check_input(value: Value) -> None:
    if value.name not in INPUTS:
        raise ValueError(f"input {value}; allowed: {', '.join(INPUTS)}")
    expected, rank = INPUTS[value.name]
    if value.type != expected or value.shape is None or len(value.shape) != rank:
        raise ValueError(f"input {value}; expected {TYPE_NAMES[expected]} of rank {rank}")
    free = value.shape[1:] if value.name == "windows" else value.shape
    if value.name in ("windows", *_SIZED) and None in free:
        raise ValueError(f"input {value}; its size must be fixed")


def _check_outputs(kind: Kind, outputs: list[Value]) -> None:
    if len(outputs) != len(kind.outputs):
        raise ValueError(f"{kind.name} with {len(outputs)} outputs; expected {len(kind.outputs)}")
    for value, rank in zip(outputs, kind.outputs, strict=True):
        wrong = rank is not None and value.shape is not None and len(value.shape) != rank
        if value.type != FLOAT or wrong:
            of_rank = "" if rank is None else f" of rank {rank}"
            raise ValueError(f"output {value} of {kind.name}; expected float32{of_rank}")


def _check_sizes(kind: Kind, inputs: dict[str, Value], outputs: list[Value]) -> None:
    pairs = [(outputs[0], inputs["weights"])]
    if kind is TRAIN:
        pairs = [
            (outputs[1], inputs["weights"]),
            (outputs[2], inputs["state"]),
            (inputs["anchor"], inputs["mask"]),
        ]
        length = inputs["weights"].elements(0)
        if 0 < length < inputs["mask"].elements(0):
            raise ValueError(f"{inputs['mask']} is longer than {inputs['weights']}")
    for one, other in pairs:
        both = (one.shape, other.shape)
        if all(shape and None not in shape for shape in both) and one.shape != other.shape:
            raise ValueError(f"{one} does not fit {other}")
