"""The training file: what ``flwr-fleet train FILE`` reads."""

from typing import Annotated, Any, Final

from pydantic import Field, model_validator

from schemas.base import Strict
from schemas.simulation import Cohort, Model, Name, Quorum, Simulation, Source, Synchronous, Upload

Tag = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Word = Annotated[str, Field(min_length=1, max_length=63)]
_SAME: Final = (
    *("name", "seed", "rounds", "evaluate_every", "strategy", "strategies"),
    *("model", "source", "upload"),
)
Group = Annotated[tuple[int, ...], Field(min_length=1)]


class Devices(Strict):
    """Who is asked."""

    tags: tuple[Tag, ...] = Field(
        (), description="Accepted devices that have one of these tags; all of them if left out."
    )
    least: int = Field(1, ge=1, description="With fewer online the run does not begin.")
    wait_seconds: float = Field(
        30.0, ge=0, le=86_400, description="How long the run waits for all to come online."
    )


class Windows(Strict):
    """What a window on the devices looks like; none of them is ever seen here."""

    time: int = Field(ge=4, le=100_000, description="Samples.")
    channels: int = Field(ge=1, le=1024)
    classes: tuple[Word, ...] = Field(min_length=2, description="Names, in the labels' order.")
    magnitudes: tuple[Group, ...] = Field(
        (), description="Channels that are one vector in space: its length is shown too."
    )

    @model_validator(mode="after")
    def _within(self) -> "Windows":
        if beyond := [c for group in self.magnitudes for c in group if not 0 <= c < self.channels]:
            raise ValueError(f"magnitudes: {beyond[0]}: channels are 0 to {self.channels - 1}")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("classes: a name stands twice")
        return self


class Sources(Strict):
    """Labelled windows of volunteers that the server holds, for strategies that begin with them."""

    path: str = Field(description="An .npz file, relative to this one: X, y and subject.")


class Patience(Cohort, Quorum):
    """A round's cohort, and when it is given up."""

    timeout_seconds: float = Field(
        600.0, gt=0, le=86_400, description="Who has not answered by then is late: left out."
    )

    @model_validator(mode="after")
    def _possible(self) -> "Patience":
        if self.size is not None and self.min_replies > self.size:
            raise ValueError(f"min_replies = {self.min_replies}: a cohort has {self.size} (size)")
        return self


class Training(Strict):
    """A training file."""

    name: Name = Field(description="Names the run's folder.")
    seed: int = Field(0, ge=0, lt=2**32, description="Of initial weights, cohorts and batches.")
    rounds: int = Field(20, ge=1, le=1_000_000, description="Federated rounds.")
    evaluate_every: int = Field(
        5, ge=1, le=1_000_000, description="Rounds between two evaluations; the last is always."
    )
    strategy: Name = Field(description="As flwr-sim strategies lists them.")
    devices: Devices = Devices()
    windows: Windows
    sources: Sources | None = None
    model: Model = Model()
    source: Source = Source()
    cohort: Patience = Patience()
    upload: Upload = Upload()
    strategies: dict[Name, dict[str, Any]] = Field(
        default_factory=dict, description="Parameters by strategy: [strategies.fedavg] …"
    )

    def simulation(self) -> Simulation:
        """The same as strategies and the loop of rounds know it."""
        cohort = self.cohort
        return Simulation(
            **{key: getattr(self, key) for key in _SAME},
            cohort=Cohort(size=cohort.size, timeout_seconds=cohort.timeout_seconds),
            synchronous=Synchronous(
                deadline_seconds=cohort.timeout_seconds,
                min_replies=cohort.min_replies,
                give_up_after=cohort.give_up_after,
            ),
        )
