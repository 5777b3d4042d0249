"""What ``flwr-edge bench model`` reports: a bundle beside the same model in float and in QDQ."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Strict
from schemas.bench import Machine, Positive, Quartiles, Versions

Score = Annotated[float, Field(ge=0, le=1)]


class ModelReport(Strict):
    """``flwr-edge bench model``: batch 1, one thread, whole ``session.run``, in turns.

    What was not given is null: ``f1`` needs labelled windows, ``*_float`` the float model,
    ``*_qdq`` the QDQ bundle.
    """

    format: Literal[1] = 1
    machine: Machine
    versions: Versions
    bundle: str
    name: str
    bits: int
    form: str
    windows: int = Field(ge=0, description="Labelled ones that f1 counts.")
    f1: Score | None = Field(description="Macro-F1 over the classes that occur.")
    f1_float: Score | None
    f1_qdq: Score | None
    agree_float: Score | None = Field(description="Windows to which both give the same class.")
    microseconds: Positive
    spread: Quartiles
    microseconds_float: Positive | None
    spread_float: Quartiles | None
    microseconds_qdq: Positive | None
    spread_qdq: Quartiles | None
    speedup_over_fp32: Positive | None
    speedup_over_qdq: Positive | None
    memory: int | None = Field(
        description="Bytes that a process grows by: session and first runs; null where unknown."
    )
    memory_float: int | None
    memory_qdq: int | None
    bytes: int = Field(description="Of the bundle's file; of a difference, without its base.")
    bytes_float: int | None
    bytes_qdq: int | None
    lies: list[str] = Field([], description="What takes far more than the manifest says.")
