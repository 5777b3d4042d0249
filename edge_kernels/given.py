"""What callers give, checked at the border: models in three forms, and whole numbers."""

from __future__ import annotations

import operator
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx import ModelProto

    Model = ModelProto | bytes | bytearray | memoryview | str | os.PathLike[str]


def model_of(model: Model) -> ModelProto | bytes | Path:
    """Return a model as what it is: a ModelProto itself, bytes or a path; onnx is not imported.

    Raises
    ------
    ValueError
        If it is none of them.
    """
    if isinstance(model, bytes | bytearray | memoryview):
        return bytes(model)
    if isinstance(model, str | os.PathLike):
        return Path(model)
    if hasattr(model, "SerializeToString") and hasattr(model, "graph"):
        return model
    raise ValueError(
        f"a model is an ONNX ModelProto, its bytes or its path, not {type(model).__name__}: what "
        "torch.onnx.export returns has one as its model_proto"
    )


def whole(name: str, number: Any) -> int:
    """Return a whole number of any type; a float is none.

    Raises
    ------
    ValueError
        Naming what it is of.
    """
    try:
        return operator.index(number)
    except TypeError as error:
        raise ValueError(f"{name} is {number!r}; a whole number is needed") from error
