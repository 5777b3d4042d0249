"""What a strategy knows of the federation that it runs: never a client's window."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from hypernet.networks.classifier import Classifier
from hypernet.networks.inputs import InputSpec
from hypernet.sources import Sources
from schemas.simulation import Simulation
from server.graphs import GraphBook


@dataclass(frozen=True)
class Federation:
    """Handed to every strategy.

    Attributes
    ----------
    config : Simulation
    sources : Sources
        The volunteers' labelled windows.
    clients : tuple[int, ...]
        Node ids that take part in training.
    graphs : GraphBook
    source_model : callable
        Gives the network trained on the sources; trained at its first call, shared by all
        strategies of a run.
    lives : dict[int, tuple[str, int]]
        Whose device a node is, and on which day, where devices live through days.
    owners : tuple[str, ...]
        And whose day each source is.
    """

    config: Simulation
    sources: Sources
    clients: tuple[int, ...]
    graphs: GraphBook
    source_model: Callable[[], Classifier]
    lives: Mapping[int, tuple[str, int]] = field(default_factory=dict)
    owners: tuple[str, ...] = ()

    def apart(self) -> "Federation":
        """The same for one strategy of several, whose graphs are its own."""
        return replace(self, graphs=self.graphs.branch())

    @property
    def spec(self) -> InputSpec:
        """What a window looks like."""
        return self.sources.spec

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.sources.classes

    @property
    def cohort(self) -> int:
        """Clients a round; those that there are, where the file names more."""
        size = self.config.cohort.size
        return len(self.clients) if size is None else min(size, len(self.clients))
