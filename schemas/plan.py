"""What the server asks of a device: stages that run graphs over one flat vector of weights.

A device knows nothing of networks or algorithms. It has windows, a vector of weights and graphs
named by their SHA-256; a plan says which graph runs on which of its windows, how often, and what
goes back. A new algorithm is a new plan, not a new daemon.
"""

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from schemas.base import Strict
from schemas.drift import Drift

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Range = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]
Part = Literal["labelled", "unlabelled", "all"]
Encoding = Literal["int8", "topk", "float32"]
Share = Annotated[float, Field(gt=0, le=1)]
TOPK: Final = 0.05
STREAM: Final = 2048
"""Most windows, one after the other, that a graph sees at once where it looks at neighbours."""


class Train(Strict):
    """Run a training-step graph on batches of the person's windows."""

    kind: Literal["train"] = "train"
    graph: Digest
    part: Part = Field(
        description="'unlabelled' is every training window, its label unread; 'all' is every one, "
        "with its label where the person gave one and −1 elsewhere."
    )
    targets: Digest | None = Field(
        None,
        description="Graph run once, before the first step, on the part's windows with the weights "
        "as they are then; each window's row of it goes to the step as its soft target. One that "
        "reads labels sees the part's windows at once, in the order of time, up to 2,048 of them.",
    )
    epochs: int = Field(0, ge=0, le=10_000, description="Passes; more where steps asks for more.")
    steps: int = Field(0, ge=0, le=1_000_000, description="Least number of optimizer steps.")
    batch_size: int = Field(
        32,
        ge=1,
        le=65_536,
        description="Windows a step. A pass's last batch may be smaller; one window over joins the "
        "batch before it.",
    )
    learning_rate: float = Field(gt=0, le=10)
    cosine: bool = Field(False, description="Let the learning rate fall to 0 along a cosine.")
    proximal: float = Field(0.0, ge=0, description="μ of μ/2‖w − w₀‖², w₀ the stage's start.")
    trainable: tuple[Range, ...] | None = Field(
        None, description="Ranges of the vector that learn; all if left out."
    )
    at_least: int = Field(
        1,
        ge=0,
        description="Skipped by a person with fewer windows; where labels are read, with "
        "fewer labelled ones.",
    )
    at_most: int | None = Field(None, ge=1, description="Skipped by a person with more of them.")

    def suits(self, windows: int) -> bool:
        """Whether a person with so many windows (labelled ones, where labels are read) runs it."""
        return self.at_least <= windows and (self.at_most is None or windows <= self.at_most)


class Adapt(Strict):
    """Run a graph once over the person's training windows; it returns the new weights.

    AdaBN sets batch norms' running statistics so; a mix of base models sets a head.
    """

    kind: Literal["adapt"] = "adapt"
    graph: Digest
    mix: float = Field(
        0.5, ge=0, le=1, description="Share of the person's own statistics, where the graph asks."
    )
    windows: int = Field(512, ge=1, le=65_536, description="Most windows used, evenly spread.")


class Blend(Strict):
    """Keep a share of what the stages from one on have changed.

    The mean of weights before and after fine-tuning errs less than either where the two err apart
    (arXiv:2109.01903).
    """

    kind: Literal["blend"] = "blend"
    since: int = Field(ge=0, description="The first of these stages, counted from 0.")
    share: float = Field(ge=0, le=1, description="Of the change; the rest is as it was before.")
    at_most: int | None = Field(
        None, ge=0, description="Skipped by a person with more labelled windows."
    )


Stage = Annotated[Train | Adapt | Blend, Field(discriminator="kind")]


class Plan(Strict):
    """Stages, one after the other, on one flat vector of weights.

    Attributes
    ----------
    length
        Entries of the weights vector; a payload of another length is refused.
    personal
        Ranges that never leave the device: they are kept there between rounds (FedPer's head,
        FedBN's norms) and start from the server's values the first time.
    unsent
        Ranges whose change stays on the device, for the server would not read it (batch norms'
        statistics, where each device sets its own): it would share scales and places with what
        the server does read, and be judged beside it. Each stage starts from what was sent.
    carried
        Ranges that a device that keeps adapters hands from one evaluation to the next, whichever
        adapter that is with; they never leave it and start from the weights' values.
    variances
        Ranges that hold running variances. They must stay positive; coded, delayed or hostile
        changes may say otherwise, and the server cuts these.
    stages
        What to run; the change that these make goes back.
    own
        Stages on a second vector that the device keeps for itself and predicts with, its
        proximal term anchored at the weights received (Ditto's personal model).
    predict
        The graph that maps weights and windows to logits; needed to evaluate.
    report
        Graphs run at the end on training windows, by the name under which their output goes
        back; an output is a summary and holds no window (quantiles, means).
    """

    length: int = Field(ge=1, le=1_000_000_000)
    statistics: Digest = Field(
        description="Graph: windows → the person's input mean and deviation."
    )
    stages: tuple[Stage, ...] = ()
    own: tuple[Stage, ...] = ()
    personal: tuple[Range, ...] = ()
    # None, and so not written: devices that do not know of it read all plans that leave it out.
    unsent: tuple[Range, ...] | None = None
    carried: tuple[Range, ...] = ()
    variances: tuple[Range, ...] = ()
    predict: Digest | None = None
    predict_own: bool = Field(False, description="Evaluate the device's second vector.")
    report: dict[str, Digest] = Field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = Field(
        default_factory=dict,
        description="Shape of a report, by name; another one is refused at the server.",
    )
    noise: float = Field(
        0.0,
        ge=0,
        description="Deviation of Gaussian noise that the device adds to its reports, drawn from "
        "its own entropy: no seed of the plan's gives it away.",
    )
    drift: Drift | None = Field(
        None,
        description="The weights are an adapter that the device keeps: it says whether it needs "
        "another one (``query.drift``), and an evaluation without weights is with the present one.",
    )
    encoding: Encoding = "float32"
    topk: Share = Field(TOPK, description="Share of the entries that top-k sends.")
    seed: int = Field(0, ge=0, description="With the round and the node's id: the batches' order.")

    @model_validator(mode="after")
    def _ranges_fit(self) -> "Plan":
        ranges = [*self.staying, *self.carried, *self.variances]
        for stage in (*self.stages, *self.own):
            if isinstance(stage, Train):
                ranges += stage.trainable or ()
        for start, stop in ranges:
            if not start < stop <= self.length:
                raise ValueError(f"range {start}:{stop} does not lie in 0:{self.length}")
        return self

    @model_validator(mode="after")
    def _what_is_carried_is_kept_beside_adapters(self) -> "Plan":
        if self.carried and self.drift is None:
            raise ValueError("carried: only a device that keeps adapters (drift) carries anything")
        return self

    @model_validator(mode="after")
    def _blends_look_back(self) -> "Plan":
        for stages in (self.stages, self.own):
            for place, stage in enumerate(stages):
                if isinstance(stage, Blend) and stage.since >= place:
                    raise ValueError(f"stage {place} blends since {stage.since}, which is not past")
        return self

    @property
    def staying(self) -> tuple[Range, ...]:
        """Ranges of which no change leaves the device."""
        return self.personal + (self.unsent or ())

    def with_proximal(self, proximal: float) -> "Plan":
        """The plan with another μ in every training stage (Flower's FedProx sends one)."""
        stages = tuple(
            Train.model_validate(stage.model_dump() | {"proximal": proximal})
            if isinstance(stage, Train)
            else stage
            for stage in self.stages
        )
        return self.model_copy(update={"stages": stages})

    def graphs(self) -> set[str]:
        """Digests of all graphs that the plan runs."""
        predict = {self.predict} if self.predict else set()
        running = [s for s in (*self.stages, *self.own) if not isinstance(s, Blend)]
        stages = {stage.graph for stage in running}
        stages |= {s.targets for s in running if isinstance(s, Train) and s.targets}
        return {self.statistics, *stages, *predict, *self.report.values()}
