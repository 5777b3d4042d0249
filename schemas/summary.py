"""``summary.json``: what a run came to."""

from pydantic import Field

from schemas.base import Strict


class MacroF1(Strict):
    """Macro-F1 over persons, 0 to 1."""

    mean: float = Field(description="Mean over the clients.")
    worst_decile: float = Field(description="Mean over the worst tenth of the clients.")
    unseen: float | None = Field(
        None, description="Mean over persons never seen in training, without labels."
    )


class Bytes(Strict):
    """Bytes of weights that one participation moves, mean over all of them."""

    down: float
    up: float


class Staleness(Strict):
    """Server steps between sending weights and learning from what came back for them."""

    mean: float
    max: int


class Days(Strict):
    """A strategy on some days of devices that live through them; means over persons and days."""

    first: int
    last: int
    accuracy: float
    macro_f1: float
    asked: int | None = Field(
        None, description="How often a device asked for an adapter; none where it says nothing."
    )
    back: int | None = Field(None, description="How often it brought back one that it had kept.")
    kept: int | None = Field(None, description="How often it went on with the present one.")
    bytes_down: float | None = Field(None, description="Of a device over these days, mean.")
    bytes_up: float | None = None


class MethodSummary(Strict):
    """One strategy's result."""

    strategy: str
    rounds: int
    macro_f1: MacroF1
    client_updates: int = Field(description="Finished trainings, all rounds.")
    failures: dict[str, list[str]] = Field(
        default_factory=dict, description="Clients left out of a round, and why, by person."
    )
    late: dict[str, int] = Field(
        default_factory=dict, description="How often a client had not answered by the deadline."
    )
    dropped: dict[str, int] = Field(
        default_factory=dict, description="How often an error or a refused change came instead."
    )
    skipped_rounds: int = Field(
        0, description="Rounds with too few replies: nothing was learned from them."
    )
    staleness: Staleness | None = Field(None, description="Of all updates, where asynchronous.")
    simulated_seconds: float | None = Field(
        None, description="Time that the training would have taken, where it was rehearsed."
    )
    wall_seconds: float
    client_updates_per_second: float
    bytes_per_participation: Bytes
    bytes_graphs: int | None = Field(
        None,
        description="Of the graphs that a device gets once, and of a frozen model that they share.",
    )
    device_seconds: float = Field(description="Mean time a client's training took on one core.")
    evaluation_seconds: float | None = Field(
        None,
        description="Mean time in which a client made its own model of what it was sent, before "
        "it was evaluated, on one core; none where devices do not say.",
    )

    days: list[Days] = Field(
        default_factory=list,
        description="Where devices live through days: the clients' days, then the unseen.",
    )


class Summary(MethodSummary):
    """A run: its main strategy's figures, and its baselines' beside them."""

    format: int = 1
    name: str
    dataset: str
    seed: int
    label_fraction: float
    persons: list[str] = Field(description="The clients, by name.")
    unseen_persons: list[str] = Field(default_factory=list)
    classes: list[str]
    lives: dict[str, tuple[str, int]] = Field(
        default_factory=dict,
        description="Whose device a person is, and on which day, where devices live through days.",
    )
    baselines: list[MethodSummary] = Field(default_factory=list)
    failed: list[str] = Field(
        default_factory=list, description="Baselines that came to no result; the notes say why."
    )
    notes: list[str] = Field(
        default_factory=list, description="What a reader must know of the data set or the run."
    )
