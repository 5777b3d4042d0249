"""Figures of quantized models, kept as they come."""

from pathlib import Path

from pydantic import BaseModel, ValidationError

from simulations.export import Form
from simulations.ranges import Ranges
from simulations.report.files import RunError, atomic_write


class Cell(BaseModel):
    """One person's model, quantized once.

    Attributes
    ----------
    ranges : {"sources", "federated"}
        Where activations' ranges come from; federated are the other clients' histograms'.
    form : {"edge", "lookup", "qdq"}
        What was run.
    noise : float
        On the histograms of federated ranges.
    f1, f1_float : float
        Macro-F1 of the exported graph in ONNX Runtime, and of the float model.
    seconds : float
        That quantizing took.
    bytes : int
        Of the exported graph, not yet compressed.
    """

    run: str
    person: str
    seen: bool
    quantizer: str
    bits: int
    f1: float
    f1_float: float
    seconds: float
    bytes: int
    ranges: Ranges = "sources"
    form: Form
    noise: float = 0.0

    @property
    def key(self) -> "Key":
        """What makes it another cell than others of its run and person."""
        return self.quantizer, self.bits, self.ranges, self.form, self.noise


Key = tuple[str, int, Ranges, Form, float]


class Cells:
    """Cells in a file, a line each, so that a study of hours goes on after any kill.

    Parameters
    ----------
    path : Path, optional
        None keeps them in memory alone.

    Raises
    ------
    RunError
        Where a line holds no cell.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.all = [] if path is None or not path.exists() else _read(path)

    def of(self, run: Path, person: str) -> set[Key]:
        """What there is of a person's model."""
        mine = (str(run), person)
        return {cell.key for cell in self.all if (cell.run, cell.person) == mine}

    def add(self, cell: Cell) -> None:
        """Keep a cell."""
        self.all.append(cell)
        if self.path is not None:
            lines = "".join(each.model_dump_json() + "\n" for each in self.all)
            atomic_write(self.path, lines.encode())


def _read(path: Path) -> list[Cell]:
    cells = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            cells.append(Cell.model_validate_json(line))
        except ValidationError as error:
            raise RunError(f"{path}, line {number}: no figures of `flwr-sim quantized`") from error
    return cells
