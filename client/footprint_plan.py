"""A plan in a folder, to measure with: ``plan.json``, ``weights.npy``, ``graphs``, ``windows``."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from client.graph_check import GraphError, GraphLimits, check
from client.windows import PersonWindows
from schemas.base import ConfigError, describe
from schemas.constants import is_constant
from schemas.plan import Plan, Train

_WINDOWS, _LABELLED = 400, 40


@dataclass(frozen=True)
class Measured:
    """What the daemon is asked to learn.

    Attributes
    ----------
    name : str
        For the report.
    plan : Plan
    weights : (plan.length,)
    graphs : dict[str, bytes]
        By digest; and the constants that they share.
    windows : Path or None
        A person's folder; random windows where it is left out.
    """

    name: str
    plan: Plan
    weights: NDArray[np.float32]
    graphs: dict[str, bytes]
    windows: Path | None = None

    @classmethod
    def open(cls, folder: Path) -> "Measured":
        """Read a folder that ``save`` wrote.

        Raises
        ------
        ConfigError
            Where something is missing or does not fit.
        """
        try:
            plan = Plan.model_validate_json((folder / "plan.json").read_bytes())
            weights = np.load(folder / "weights.npy", allow_pickle=False)
            graphs = _read_graphs(folder / "graphs", plan)
        except ValidationError as error:
            raise ConfigError(str(folder / "plan.json"), describe(error.errors())) from None
        except (OSError, ValueError) as error:
            raise ConfigError(str(folder), [str(error)]) from None
        if weights.dtype != np.float32 or weights.shape != (plan.length,):
            problem = f"weights.npy: expected float32 of shape ({plan.length},)"
            raise ConfigError(str(folder), [problem])
        windows = folder / "windows"
        return cls(folder.name, plan, weights, graphs, windows if windows.is_dir() else None)

    def save(self, folder: Path) -> None:
        """Write the folder that ``open`` reads."""
        (folder / "graphs").mkdir(parents=True, exist_ok=True)
        (folder / "plan.json").write_text(self.plan.model_dump_json(indent=2), encoding="utf-8")
        np.save(folder / "weights.npy", self.weights)
        for digest, data in self.graphs.items():
            (folder / "graphs" / _file(digest, data)).write_bytes(data)
        if self.windows is not None:
            PersonWindows.open(self.windows).save(folder / "windows")

    def person(self, scratch: Path) -> Path:
        """Return the person's windows; random ones of the plan's size where there are none."""
        if self.windows is not None:
            return self.windows.absolute()
        statistics = self.graphs[self.plan.statistics]
        try:
            checked = check(statistics, self.plan.statistics, GraphLimits(), shared=True)
            (windows,) = checked.inputs
        except GraphError as error:
            raise ConfigError(self.name, [str(error)]) from None
        shape = [size or 1 for size in (windows.shape or ())[1:]]
        x = np.random.default_rng(0).normal(size=(_WINDOWS, *shape)).astype(np.float32)
        labels = np.full(_WINDOWS, -1, np.int64)
        labels[:_LABELLED] = np.arange(_LABELLED) % 2
        PersonWindows(x, labels, x[:1], labels[:1]).save(scratch)
        return scratch


def _file(digest: str, data: bytes) -> str:
    return f"{digest}.npy" if is_constant(data) else f"{digest}.onnx"


def _read_graphs(folder: Path, plan: Plan) -> dict[str, bytes]:
    """Read a plan's graphs and the constants that they share."""
    graphs = {digest: _read(folder / f"{digest}.onnx") for digest in plan.graphs()}
    shared = {
        constant.sha256
        for digest, graph in graphs.items()
        for constant in check(graph, digest, GraphLimits(), shared=True).shared
    }
    return graphs | {digest: _read(folder / f"{digest}.npy") for digest in shared}


def _read(path: Path) -> bytes:
    data = path.read_bytes()
    if sha256(data).hexdigest() != path.stem:
        raise ValueError(f"graphs/{path.name}: its bytes do not match its name")
    return data


def by_hand() -> Measured:
    """Make a plan of the watch model's size, by hand.

    Raises
    ------
    ConfigError
        Where the package onnx is not installed.
    """
    from edge_kernels.bench import training

    graphs = {
        sha256(graph).hexdigest(): graph for graph in (training.step(), training.statistics())
    }
    step, statistics = graphs
    stage = Train(graph=step, part="unlabelled", epochs=2, batch_size=32, learning_rate=1e-3)
    plan = Plan(length=training.LENGTH, statistics=statistics, stages=(stage,))
    weights = np.random.default_rng(0).normal(0, 0.05, training.LENGTH).astype(np.float32)
    return Measured("built-in: 3 convolutions, windows of 150 x 6", plan, weights, graphs)
