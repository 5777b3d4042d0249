"""The simulation file: what ``flwr-sim run FILE`` reads.

Tables of parameters a strategy (``[strategies.NAME]``) are checked by the strategy itself, so that
a new strategy brings its own keys: see ``simulations.config``.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from schemas.base import Strict
from schemas.plan import TOPK, Encoding

Whole = Annotated[int, Field(strict=True)]  # else true is 1
Real = Annotated[float, Field(strict=True)]
Fraction = Annotated[Real, Field(ge=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Data(Strict):
    """Which recordings, how they are cut, and who plays which part."""

    kind: str = Field(
        "watch",
        description="The data source: recordings, npz, watch, days, uci-har, wisdm51 or an "
        "installed one.",
    )
    path: str | None = Field(
        None,
        description="File or folder of the recordings, relative to the simulation file; sources "
        "that bring their own data need none.",
    )
    window_seconds: Real = Field(
        3.0, gt=0, le=60, description="Length of a window, where the source cuts them itself."
    )
    overlap: Real = Field(
        0.5, ge=0, lt=1, description="Share of a window that it has in common with the next one."
    )
    train_fraction: Real = Field(
        0.7,
        gt=0,
        lt=1,
        description="Share of each person's and class's time that is training; the rest, after a "
        "gap of one window, is test.",
    )
    label_fraction: Fraction = Field(
        0.05,
        description="Share of a client's training windows that carry a label: the first of each "
        "class, at least one where it is above 0.",
    )
    pool: Literal["full", "absent", "thinned"] = Field(
        "full",
        description="What is left of clients' training windows: half of each one's classes, drawn "
        "by the seed, missing ('absent') or cut to their first quarter ('thinned'). Tests keep "
        "all classes.",
    )
    bout_windows: Whole | None = Field(
        None,
        ge=1,
        le=100_000,
        description="Lay each client's training windows in bouts of so many of one class, in a "
        "random order; as recorded if left out.",
    )
    rectify: bool = Field(
        False,
        description="Let the network see every channel without its sign too: EMG's strength.",
    )
    source_persons: Whole = Field(
        3, ge=1, le=100_000, description="Volunteers whose labelled windows the server holds."
    )
    source_days: Whole | None = Field(
        None, ge=1, le=100_000, description="Kind days: so many first days are the sources'."
    )
    client_days: Whole | None = Field(
        None, ge=1, le=100_000, description="Kind days: so many days after these are clients."
    )
    held_out: tuple[str, ...] = Field(
        (),
        description="Kind days: persons of whom no day is a source's. They alone are then clients "
        "and unseen, from the same days on.",
    )
    unseen_persons: Whole = Field(
        0,
        ge=0,
        le=100_000,
        description="Persons kept out of all training; they meet the result, without labels.",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="An installed data source's own keys: [data.options]."
    )


class Model(Strict):
    """The network that every device runs."""

    width: Whole = Field(32, ge=4, le=256, description="Channels of the first convolution.")
    latent: Whole = Field(64, ge=4, le=512, description="Length of a window's latent vector.")
    own_statistics: Real = Field(
        0.5, ge=0, le=1, description="Share of a person's own statistics in AdaBN."
    )


class Source(Strict):
    """Training on the volunteers' windows, at the server, before the first round."""

    steps: Whole = Field(2000, ge=0, le=1_000_000, description="Optimizer steps.")
    persons_per_step: Whole = Field(8, ge=1, le=256, description="Virtual users in a batch.")
    windows_per_person: Whole = Field(16, ge=2, le=1024, description="Windows of each of them.")
    learning_rate: Real = Field(1.5e-3, gt=0, le=1, description="AdamW's, cosine to 0.")
    virtual_users: bool = Field(
        True, description="Turn each drawn person as a worn sensor may be turned."
    )


class Cohort(Strict):
    """Who takes part in a round, and how long the server waits."""

    size: Whole | None = Field(
        None, ge=1, le=100_000, description="Clients a round; all of them if left out."
    )
    timeout_seconds: Real = Field(
        60.0, gt=0, le=86_400, description="A client that takes longer is left out of the round."
    )


class Upload(Strict):
    """How a device's change travels to the server."""

    encoding: Encoding = Field(
        "int8",
        description="int8 and topk keep on the device what coding loses, and add it next time.",
    )
    topk: Real = Field(
        TOPK,
        gt=0,
        le=1,
        description="Share of the entries, the largest, that topk sends (as int8).",
    )
    max_norm: Real = Field(
        1e4, gt=0, description="A change with a larger L2 norm is refused at the server."
    )
    max_examples: Whole = Field(
        100_000,
        ge=1,
        le=1_000_000_000,
        description="A device that says it learned from more is refused: its word is its weight.",
    )


class Quorum(Strict):
    """How many must answer."""

    min_replies: Whole = Field(
        1, ge=1, le=100_000, description="With fewer good replies nothing is learned from a round."
    )
    give_up_after: Whole = Field(
        5, ge=1, le=100_000, description="So many such rounds in a row end the run with an error."
    )


class Synchronous(Quorum):
    """Rounds with a deadline; without this table a round waits for all of its cohort."""

    deadline_seconds: Real = Field(
        600.0, gt=0, le=604_800, description="Who has not answered by then is late: left out."
    )


class Asynchronous(Strict):
    """No cohorts: who is done is asked again, and every few updates make a round (FedBuff)."""

    concurrency: Whole | None = Field(
        None, ge=1, le=100_000, description="Devices at work at once; cohort.size if left out."
    )
    buffer: Whole = Field(4, ge=1, le=100_000, description="Updates a step of the server: a round.")
    staleness_power: Real = Field(
        0.5,
        ge=0,
        le=10,
        description="An update made for weights s steps old weighs (1 + s)^-a; this is a.",
    )
    deadline_seconds: Real = Field(
        600.0, gt=0, le=604_800, description="Who has not answered by then is late: given up."
    )
    give_up_after: Whole = Field(
        5, ge=1, le=100_000, description="So many deadlines without an update end the run."
    )


class Rehearsal(Strict):
    """What devices of this machine are made to suffer, on a clock that nobody waits for."""

    delay_seconds: Real = Field(
        30.0, ge=0, le=604_800, description="Median of a task's time, download to upload."
    )
    device_spread: Real = Field(
        0.5, ge=0, le=5, description="σ of the log-normal by which devices differ for good."
    )
    task_spread: Real = Field(
        0.25, ge=0, le=5, description="σ of the log-normal by which a device's tasks differ."
    )
    dropout: Real = Field(
        0.0, ge=0, le=1, description="Share of tasks that a device takes and never finishes."
    )
    offline_fraction: Real = Field(
        0.0, ge=0, lt=1, description="Share of the time that a device is out of reach."
    )
    offline_seconds: Real = Field(
        3600.0, gt=0, le=31_536_000, description="Mean length of such a spell."
    )


class Engine(Strict):
    """How the simulation runs on this machine."""

    workers: Whole | None = Field(
        None, ge=1, le=1024, description="Worker processes; one a core if left out."
    )


class Simulation(Strict):
    """A simulation file."""

    name: Name = Field(description="Names the run's folder.")
    seed: Whole = Field(
        0, ge=0, lt=2**32, description="Of persons' parts, initial weights, batches."
    )
    rounds: Whole = Field(20, ge=0, le=1_000_000, description="Federated rounds.")
    evaluate_every: Whole = Field(
        5, ge=1, le=1_000_000, description="Rounds between two points of the learning curve."
    )
    strategy: Name = Field("semipfl", description="The strategy that the run is about.")
    baselines: tuple[Name, ...] = Field(
        (), description="Strategies run beside it, on the same data, for the table."
    )
    data: Data = Field(default_factory=Data)
    model: Model = Field(default_factory=Model)
    source: Source = Field(default_factory=Source)
    cohort: Cohort = Field(default_factory=Cohort)
    upload: Upload = Field(default_factory=Upload)
    engine: Engine = Field(default_factory=Engine)
    synchronous: Synchronous | None = Field(
        None, description="Rounds with a deadline and a least number of replies."
    )
    asynchronous: Asynchronous | None = Field(
        None, description="Buffered updates in the place of rounds."
    )
    rehearsal: Rehearsal | None = Field(
        None, description="Simulated delays, dropouts and offline spells (LocalGrid alone)."
    )
    strategies: dict[Name, dict[str, Any]] = Field(
        default_factory=dict, description="Parameters by strategy: [strategies.fedavg] …"
    )

    @model_validator(mode="after")
    def _no_strategy_twice(self) -> "Simulation":
        if self.strategy in self.baselines:
            said = f"{self.strategy} is both the strategy and a baseline: take it out of baselines"
            raise ValueError(said)
        for name in self.baselines:
            if self.baselines.count(name) > 1:
                raise ValueError(f"{name} stands twice in baselines: once is enough")
        return self

    @model_validator(mode="after")
    def _one_way(self) -> "Simulation":
        if self.synchronous is not None and self.asynchronous is not None:
            raise ValueError("both [synchronous] and [asynchronous] are given; keep one of them")
        return self
