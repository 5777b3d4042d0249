"""A strategy whose devices run plans, and the plans that all classifiers share."""

import logging
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NoReturn, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray
from pydantic import Field

from hypernet.export import Optimizer
from hypernet.networks.classifier import Classifier
from hypernet.parameters import ParameterSpec, vector_of
from hypernet.source_training import new_classifier
from schemas.base import Strict
from schemas.plan import Adapt, Plan, Stage, Train
from server.border import weights_record
from server.federation import Federation
from server.strategies.moments import remember, remembered

if TYPE_CHECKING:
    from server.strategies.stream import Stream

_LOG = logging.getLogger("flwr")
State = dict[str, NDArray[Any]]

# Types of parameters whose default differs from strategy to strategy; bounds do not.
Adapts = Annotated[bool, Field(description="AdaBN on the person's unlabelled windows, first.")]
Finetunes = Annotated[bool, Field(description="Then learn on the person's labelled windows.")]
Few = Annotated[
    int, Field(ge=0, description="With at most so many labelled windows the head alone learns.")
]
BodySteps = Annotated[int, Field(ge=0, le=100_000, description="Steps of the whole network.")]
BodyEpochs = Annotated[int, Field(ge=0, le=1000, description="And at least so many passes.")]


class Local(Strict):
    """A device's training in one round."""

    start: Literal["source", "random"] = Field(
        "source", description="Where the model starts: trained on the sources, or untrained."
    )
    epochs: int = Field(1, ge=0, le=1000, description="Passes over the labelled windows.")
    steps: int = Field(10, ge=0, le=100_000, description="Least number of steps.")
    batch_size: int = Field(
        32, ge=2, le=4096, description="Windows a step; batch norm teaches nothing with one."
    )
    learning_rate: float = Field(3e-4, gt=0, le=10, description="The optimizer's.")
    optimizer: Literal["sgd", "adam"] = Field(
        "adam", description="New in every round; sgd has a momentum of 0.9."
    )


class Finetune(Strict):
    """The device's last step: from the weights that it received to its own model."""

    adapt: Adapts = True
    finetune: Finetunes = False
    few: Few = 90
    head_steps: int = Field(40, ge=0, le=100_000, description="Steps of the head alone.")
    body_steps: BodySteps = 150
    body_epochs: BodyEpochs = 5
    tune_rate: float = Field(1e-3, gt=0, le=10, description="Adam's learning rate, cosine.")


class EdgeStrategy(Strategy):
    """A Flower strategy that can be checkpointed, and whose devices run plans.

    One of Flower's becomes one by standing before it: ``class X(flower.FedMedian, FedAvg)``.

    Parameters
    ----------
    federation : Federation
    parameters : Strict
        An instance of the class's ``Parameters``: the table ``[strategies.NAME]``.
    """

    Parameters: ClassVar[type[Strict]]
    needs_labels: ClassVar[bool] = False
    """Whether it is of no use where the clients have no label at all."""

    rounds: ClassVar[int | None] = None
    """Rounds, where they are not the simulation file's."""

    stream: "Stream | None" = None
    """Of devices that live through days, and say each day what they need."""

    federation: Federation

    def __init__(self, federation: Federation, parameters: Strict) -> None:
        self.federation = federation
        self.parameters: Any = parameters

    def __init_subclass__(cls, **more: Any) -> None:
        """Refuse a base of Flower's behind ours: part of it would never be called."""
        super().__init_subclass__(**more)
        ours = ""
        for base in cls.__bases__:
            if issubclass(base, EdgeStrategy):
                ours = base.__name__
            elif ours and issubclass(base, Strategy):
                theirs = f"flower.{base.__name__}"
                raise TypeError(
                    f"class {cls.__name__}({ours}, {theirs}): Flower's strategy stands first: "
                    f"class {cls.__name__}({theirs}, {ours})"
                )

    @abstractmethod
    def initial(self) -> ArrayRecord:
        """Arrays before the first round (one flat vector, ``weights``)."""

    def train_config(self) -> ConfigRecord:
        """What every device is told in a training round."""
        return ConfigRecord()

    def evaluate_config(self) -> ConfigRecord:
        """What every device is told in an evaluation."""
        return ConfigRecord()

    def join(self, nodes: Iterable[int], grid: Grid) -> None:
        """Take in persons that training has not seen. By default they get what is shared."""

    def state(self) -> State:
        """What a checkpoint must hold besides the arrays: moments of Flower's, if nobody adds."""
        return remembered(self)

    def load(self, state: State) -> None:
        """Go on from ``state``."""
        remember(self, state)

    def summary(self) -> None:
        """Say nothing: the run's own report does."""

    def start(self, *_: Any, **__: Any) -> NoReturn:
        """Refuse Flower's own loop: it brings devices no graphs and checks nothing they return.

        Raises
        ------
        TypeError
            Always; names the loop that does.
        """
        raise TypeError(
            f"{type(self).__name__}.start: Flower's own loop brings no graphs to the devices and "
            "cannot read their replies; use server.rounds.Rounds(...).run() in a ServerApp of "
            "your own (simulations/EXTENDING.md), or `flwr run .`, or `flwr-sim run FILE`"
        )


class Plans:
    """Plans for a classifier: the same stages serve every baseline.

    Parameters
    ----------
    federation : Federation
    network : Classifier
        Only its layout matters.
    """

    def __init__(self, federation: Federation, network: Classifier) -> None:
        self.federation = federation
        self.network = network
        self.spec = ParameterSpec.of(network)
        self.book = federation.graphs
        self.head = self.spec.ranges(lambda name: name.startswith("head"))
        self.body = self.spec.ranges(
            lambda name: name.startswith("encoder") and not name.endswith((".mean", ".var"))
        )
        self.variances = self.spec.ranges(lambda name: name.endswith(".var"))
        self.norms = self.spec.ranges(lambda name: ".norm" in name)

    def step(self, optimizer: Optimizer, *, batch: bool) -> str:
        """Digest of the classification step."""
        return self.book.step(self.network, "classification_loss", optimizer, batch=batch)

    def plan(self, **fields: Any) -> Plan:
        """Build a plan on this network's vector."""
        config = self.federation.config
        return Plan(
            length=self.spec.length,
            variances=self.variances,
            statistics=self.book.statistics(self.network.spec),
            seed=config.seed,
            encoding=config.upload.encoding,
            topk=config.upload.topk,
            **fields,
        )

    def local(self, local: Local, **fields: Any) -> Train:
        """A round's training on labelled windows, normalised by the batch.

        Who has one labelled window alone is left out, as who has none is: normalised by itself it
        teaches nothing, and a second graph for its weight in the mean is not worth its bytes. The
        device says so: 0 examples. Its last step (``personal``) needs no batch, and learns from it.
        """
        return Train(
            graph=self.step(local.optimizer, batch=True),
            part="labelled",
            epochs=local.epochs,
            steps=local.steps,
            batch_size=local.batch_size,
            learning_rate=local.learning_rate,
            at_least=2,
            **fields,
        )

    def personal(self, tuning: Finetune) -> tuple[Stage, ...]:
        """AdaBN, then the head alone or the whole network, by how many labels there are."""
        stages: list[Stage] = []
        if tuning.adapt:
            share = self.federation.config.model.own_statistics
            stages.append(Adapt(graph=self.book.adapt(self.network), mix=share))
        if tuning.finetune:
            common: dict[str, Any] = {
                "graph": self.step("adam", batch=False),
                "part": "labelled",
                "learning_rate": tuning.tune_rate,
                "cosine": True,
            }
            if tuning.few:
                stages.append(
                    Train(
                        **common, steps=tuning.head_steps, trainable=self.head, at_most=tuning.few
                    )
                )
            stages.append(
                Train(
                    **common,
                    steps=tuning.body_steps,
                    epochs=tuning.body_epochs,
                    at_least=tuning.few + 1,
                )
            )
        return tuple(stages)

    def evaluation(self, tuning: Finetune, **fields: Any) -> Plan:
        """Personalise as told, then predict."""
        return self.plan(
            stages=self.personal(tuning), predict=self.book.forward(self.network), **fields
        )


def start_vector(federation: Federation, start: Literal["source", "random"]) -> ArrayRecord:
    """The classifier's vector: trained on the sources, or untrained."""
    if start == "source":
        return weights_record(vector_of(federation.source_model()).numpy())
    network = new_classifier(federation.sources, federation.config.model, federation.config.seed)
    return weights_record(vector_of(network).numpy())


def classifier_plans(federation: Federation) -> Plans:
    """Plans for the classifier of the simulation file."""
    config = federation.config
    return Plans(federation, new_classifier(federation.sources, config.model, config.seed))


def config_of(plan: Plan) -> ConfigRecord:
    """A message's configuration that carries a plan."""
    return ConfigRecord({"plan": plan.model_dump_json(exclude_none=True)})


def request(
    node: int, kind: str, arrays: ArrayRecord, config: Mapping[str, object], round_number: int
) -> Message:
    """One device's own message; no record is shared with another's."""
    own = ConfigRecord(cast(Any, dict(config)))
    own["server-round"] = round_number
    content = RecordDict({"arrays": own_arrays(arrays), "config": own})
    return Message(content, dst_node_id=node, message_type=kind, group_id=str(round_number))


def own_arrays(arrays: ArrayRecord) -> ArrayRecord:
    """A record of arrays of its own; only their bytes, which nobody can change, are shared."""
    return ArrayRecord({k: Array(a.dtype, a.shape, a.stype, a.data) for k, a in arrays.items()})


def answered(replies: Iterable[Message]) -> list[Message]:
    """Replies that are none of an error; those that are, are logged, as Flower's strategies do."""
    good = []
    for reply in replies:
        if reply.has_error():
            node = reply.metadata.src_node_id
            _LOG.info("aggregate_train: error from node %d: %s", node, reply.error.reason)
        else:
            good.append(reply)
    return good


def sample(nodes: list[int], count: int, seed: int, round_number: int) -> list[int]:
    """Draw a cohort without replacement; the same one for the same seed and round."""
    rng = np.random.default_rng([seed, round_number])
    return sorted(int(node) for node in rng.permutation(sorted(nodes))[: min(count, len(nodes))])
