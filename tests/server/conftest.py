"""A federation without data worth the name, and devices that answer what a test says."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from hypernet.networks.inputs import InputSpec
from hypernet.source_training import new_classifier
from hypernet.sources import Sources
from schemas.delta import encode
from schemas.plan import Plan
from schemas.simulation import Cohort, Model, Simulation, Upload
from server.border import weights_of
from server.federation import Federation
from server.flower_private import SERVER_NODE_ID, identify
from server.graphs import GraphBook

if TYPE_CHECKING:
    from tests.postgres import Postgres

CLASSES = 3
CLIENTS = (1, 2, 3, 4)


@pytest.fixture(autouse=True)
def _server() -> None:
    """Messages made here are the server's."""
    identify(1, SERVER_NODE_ID)


class NoGraphs(GraphBook):
    """Gives digests and exports nothing: plans name graphs, and none is run."""

    def _get(self, of: object, kind: str, make: Callable[[], bytes]) -> str:
        if isinstance(of, torch.nn.Module):
            assert callable(getattr(of, kind.split()[1])), kind
        graph = f"{type(of).__name__} {kind}".encode()
        return super()._get(of, kind, lambda: graph)


@pytest.fixture
def federation() -> Callable[..., Federation]:
    """Make a federation of four clients; nodes 5 and above were never seen."""

    def make(**config: Any) -> Federation:
        settings = Simulation(
            name="tiny",
            rounds=config.pop("rounds", 2),
            strategy="fedavg",
            model=Model(width=4, latent=4, own_statistics=config.pop("own_statistics", 0.5)),
            cohort=Cohort(size=config.pop("cohort", None)),
            upload=Upload(
                encoding=config.pop("encoding", "int8"),
                max_examples=config.pop("max_examples", 100_000),
            ),
            **config,
        )
        rng = np.random.default_rng(0)
        sources = Sources(
            InputSpec(20, 6, ((0, 1, 2), (3, 4, 5))),
            [torch.from_numpy(rng.standard_normal((12, 20, 6)).astype(np.float32))] * 2,
            [torch.arange(12) % CLASSES] * 2,
            CLASSES,
        )
        network = new_classifier(sources, settings.model, 7)
        return Federation(settings, sources, CLIENTS, NoGraphs(), lambda: network)

    return make


Handler = Callable[[Message], Message | None]


class Devices(Grid):
    """Answers every message at once, by a test's function; keeps what it was sent."""

    def __init__(self, nodes: Iterable[int], answer: Handler) -> None:
        self.nodes, self.answer = list(nodes), answer
        self.sent: list[Message] = []

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        batch = list(messages)
        self.sent += batch
        replies = [self.answer(message) for message in batch]
        return [reply for reply in replies if reply is not None]

    def get_node_ids(self) -> list[int]:
        return list(self.nodes)

    def set_run(self, run: Any) -> None: ...

    @property
    def run(self) -> Any:
        return "the run"

    def create_message(self, *arguments: Any, **more: Any) -> Message:
        return Message(*arguments, **more)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        return [str(message.metadata.dst_node_id) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return []


@pytest.fixture
def devices() -> Callable[..., Devices]:
    return Devices


@pytest.fixture
def trained() -> Callable[..., Message]:
    """A device's answer to a training request, coded as its plan asks."""

    def make(
        request: Message,
        delta: Any = None,
        examples: int = 10,
        encoding: Any = None,
        **metrics: Any,
    ) -> Message:
        size = weights_of(request).size
        change = np.zeros(size, np.float32) if delta is None else np.asarray(delta, np.float32)
        plan = Plan.model_validate_json(request.content.config_records["config"]["plan"])
        coded, _ = encode(change, None, encoding or plan.encoding, plan.topk)
        values = {"num-examples": examples, "loss": 0.5, "seconds": 0.25} | {
            name.replace("_", "-"): value for name, value in metrics.items()
        }
        content = RecordDict(
            {
                "delta": ArrayRecord({name: Array(array) for name, array in coded.items()}),
                "metrics": MetricRecord({k: v for k, v in values.items() if v is not None}),
            }
        )
        return Message(content, reply_to=request)

    return make


@pytest.fixture
def counted() -> Callable[..., Message]:
    """A device's answer to an evaluation request: so many of each class, all right."""

    def make(request: Message, right: int = 5) -> Message:
        counts = [int(n) for n in (np.eye(CLASSES, dtype=int) * right).ravel()]
        metrics = MetricRecord({"num-examples": right, "seconds": 0.1, "confusion": counts})
        return Message(RecordDict({"metrics": metrics}), reply_to=request)

    return make


@pytest.fixture(scope="session")
def postgres_server() -> Iterator["Postgres"]:
    """One PostgreSQL for all, with a migrated template."""
    from server.database import migrate, open_engine
    from tests import postgres

    programs = postgres.programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian package postgresql)")
    with postgres.running(programs) as server:
        engine = open_engine(server.new(name="migrated"))
        migrate(engine)
        engine.dispose()
        yield server
