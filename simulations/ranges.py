"""Ranges for a run's persons from their devices' histograms, in place of the sources' windows."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal

from onnx import ModelProto

from edge_kernels.quantize import calibrate
from edge_kernels.quantize.files import load
from edge_kernels.quantize.histogram import Histogram, Method, Range
from edge_kernels.quantize.quantizer import inputs
from edge_kernels.quantize.range_graph import range_graph
from edge_kernels.quantize.reader import Split, read
from schemas.ranges import Noise
from server.ranges import Survey, ask, merged
from simulations.personal_model import Models
from simulations.report.files import RunError

Ranges = Literal["sources", "federated"]
WIDEN: Final = 2.0  # persons go beyond the sources; what is beyond twice that counts at the end


@dataclass(frozen=True)
class Histograms:
    """How devices are asked.

    Attributes
    ----------
    bins : int
    windows : int
        Most of a device's training windows that are counted.
    noise : float
        Scale on each count, added on the device; 0 for none.
    kind : {"laplace", "gaussian"}
    method : {"minmax", "percentile", "mse"}
        How a range is chosen from the merged counts. Measured on three persons of the watch run,
        8 bits, round to nearest, mean error of the logits: 1.7% by the extremes, which are one
        other person's, 1.5% by the least squared error or the middle 99.99%; of the sources'
        windows 1.6%.
    """

    bins: int = 64
    windows: int = 256
    noise: float = 0.0
    kind: Noise = "laplace"
    method: Method = "mse"

    @classmethod
    def with_noise(cls, noise: float) -> "Histograms":
        """The usual ones; with noise fewer bins, and the extremes of what stands out of it.

        What noise hides are the tails: to cut more off, as the least error does, costs more (watch
        run, scale 0.001: 13.5% error of the logits instead of 9.5%).
        """
        return cls(bins=32, noise=noise, method="minmax") if noise else cls()


class FederatedRanges:
    """What the clients of a finished run tell, by the messages and the code that devices run.

    Each client's graph is of its own float model; its counts are of its own training windows. A
    person's ranges are those of all *other* clients: so a person who tells nothing, or joins later,
    is served as well, and no one's range is its own. What all share has everybody's.

    Parameters
    ----------
    models : Models
    how : Histograms
    tell : callable
        Takes a line for whoever watches.
    """

    def __init__(
        self,
        models: Models,
        how: Histograms | None = None,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.models, self.how, self.tell = models, how or Histograms(), tell

    def of(self, person: str | None) -> list[Range]:
        """Return the ranges for a person's model, or for the shared one where it is None.

        Raises
        ------
        RunError
            Where no device's counts are there, or noise hides them.
        """
        others = [sent for name, sent in self._sent.items() if name != person]
        try:
            return merged(others, self._survey, self.how.method)
        except ValueError as error:
            raise RunError(f"{self.models.run}: federated ranges: {error}") from error

    @cached_property
    def _shared(self) -> Split:
        return _split(self.models.shared)

    @cached_property
    def _survey(self) -> Survey:
        net = self._shared.net
        x = inputs(self._shared, self.models.sources)
        bounds = tuple(calibrate.bounds(net, x, WIDEN))
        how = self.how
        return Survey(bounds, how.bins, how.windows, how.noise, how.kind)

    @cached_property
    def _sent(self) -> dict[str, list[Histogram]]:
        """Every client's histograms, by name."""
        names, survey = self.models.world.persons, self._survey
        graphs = {}
        for node, name in names.items():
            self.tell(f"{self.models.run} {name}: a graph that counts")
            graphs[node] = self._graph(name)
        timeout = self.models.loaded.config.cohort.timeout_seconds
        answers = ask(self.models.grid, graphs, survey, timeout)
        for node, why in answers.failures.items():
            self.tell(f"{self.models.run} {names[node]}: left out: {why}")
        return {names[node]: sent for node, sent in answers.histograms.items()}

    def _graph(self, person: str) -> bytes:
        split = _split(self.models.personal(person).model)
        alike = [calibrate.quantized_values(each.net) for each in (split, self._shared)]
        if split.net.shapes != self._shared.net.shapes or alike[0] != alike[1]:
            raise RunError(
                f"{self.models.run}: {person}'s model is laid out otherwise than the shared one; "
                "ranges of the sources serve it"
            )
        made = range_graph(split, self._survey.bounds, self.how.bins)
        return bytes(made.SerializeToString(deterministic=True))


def _split(model: ModelProto) -> Split:
    try:
        return read(load(model))
    except ValueError as error:
        raise RunError(f"ranges: {error}") from error
