"""What ``flwr-edge bench`` reports: kernels and encoders beside what a user could pick instead."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Strict

Bits = Literal[1, 2, 3, 4, "ternary"]
Positive = Annotated[float, Field(gt=0)]
Quartiles = tuple[Positive, Positive]
"""First and third quartile over the rounds, microseconds."""


class Machine(Strict):
    """Where it was measured."""

    cpu: str
    cores: int = Field(description="Cores that the process may use.", ge=1)
    architecture: str
    isa: str = Field(description="The kernels in use; FLWR_EDGE_ISA forces others.")
    features: list[str] = Field(description="The CPU's features that kernels ask for.")
    load: float | None = Field(description="Load average of the minute before; of others, mostly.")


class Versions(Strict):
    """Of what."""

    flwr_edge: str
    onnxruntime: str
    layout: int
    python: str


class Timed(Strict):
    """Microseconds of one call, and of the same call made by others, in the same rounds."""

    threads: int = Field(ge=1)
    isa: str
    microseconds: Positive = Field(description="Median over the rounds.")
    spread: Quartiles
    plain_run_microseconds: Positive = Field(
        description="Ours too by onnxruntime.InferenceSession.run, as the rivals; else the run of "
        "edge_kernels.session."
    )
    rivals: dict[str, Positive] = Field(description="Medians of what ONNX Runtime offers, by name.")
    rivals_spread: dict[str, Quartiles]


class KernelRow(Timed):
    """One product with packed weights, whole ``session.run``."""

    m: int = Field(description="Rows of activations.", ge=1)
    k: int = Field(description="Inputs.", ge=1)
    n: int = Field(description="Outputs: rows of the weights.", ge=1)
    bits: Bits = Field(description='"ternary" is stored in 2 bits.')
    group: int = Field(description="Inputs that share a weight scale; 0: a whole row.", ge=0)
    fast: bool = Field(description="7-bit lookup tables: lossy, never the default.")
    best_rival: str | None = Field(description="Fastest of the same or the next higher bit width.")
    speedup_over_best_rival: Positive | None = Field(description="Its median over this one's.")
    plain_run_speedup: Positive | None = Field(
        description="The same over ours by onnxruntime.InferenceSession.run."
    )
    floor_microseconds: Positive = Field(
        description="A streaming read of the packed weights and scales, as many threads."
    )
    floor_spread: Quartiles
    ratio_to_floor: Positive
    relative_rms_error: float = Field(
        description="Against the float product with the same, dequantized weights.", ge=0
    )


class KernelReport(Strict):
    """``flwr-edge bench kernels``."""

    format: Literal[1] = 1
    machine: Machine
    versions: Versions
    rows: list[KernelRow]
    left_out: dict[str, str] = Field(
        default_factory=dict, description="Rivals that this ONNX Runtime does not have, and why."
    )


class EncoderRow(Timed):
    """The simulations' encoder as one operator, batch 1, whole ``session.run``."""

    batch: int = Field(ge=1)
    bits: Bits
    speedup_over: dict[str, Positive] = Field(description="Each rival's median over this one's.")
    plain_run_speedup_over: dict[str, Positive] = Field(
        description="The same over ours by onnxruntime.InferenceSession.run."
    )
    relative_rms_error: float = Field(
        description="Against the float network: rounding of weights and activations.", ge=0
    )


class EncoderReport(Strict):
    """``flwr-edge bench encoder``."""

    format: Literal[1] = 1
    machine: Machine
    versions: Versions
    rows: list[EncoderRow]


class Memory(Strict):
    """Bytes of the daemon and of the process that learns for it, added up."""

    rss: int = Field(description="Resident; what both map is counted twice.", ge=0)
    pss: int = Field(description="Resident; what several map is shared out among them.", ge=0)
    processes: int = Field(description="The daemon, and its child where there is one.", ge=1)


class FootprintTargets(Strict):
    """What a Raspberry Pi should do with; printed beside the figures, never asserted."""

    seconds_to_connect: Positive = 1.0
    idle_rss: int = 45 * 2**20
    learning_rss: int = 110 * 2**20
    installed: int = 220 * 10**6


class FootprintReport(Strict):
    """``flwr-edge bench footprint``."""

    format: Literal[1] = 1
    machine: Machine
    versions: Versions
    plan: str = Field(description="What was learned.")
    seconds_to_connect: Positive = Field(
        description="From the start of the process to its state at the broker."
    )
    idle: Memory = Field(description="Connected; the learner was never loaded.")
    learning: Memory = Field(description="The peak of both sums over the tasks.")
    task_seconds: Positive = Field(description="Of the longest task, from question to result.")
    afterwards: Memory = Field(description="When the process that learned has ended.")
    installed: dict[str, int] = Field(
        description="Bytes of each distribution's files, without extras."
    )
    targets: FootprintTargets = FootprintTargets()
