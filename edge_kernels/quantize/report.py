"""What became of each layer."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Line:
    """One product of the float model, or a node that holds several (an LSTM).

    Attributes
    ----------
    name, op : str
        Of its ONNX node.
    shape : tuple of int
        Of its weights, (N, K); empty where they are not known.
    served : str
        The operator that took its place, or "float".
    why : str
        Why it stayed in float; empty where it did not.
    error : float
        ‖W − Ŵ‖ / ‖W‖ of its weights; 0 in float.
    before, after : int
        Bytes of its weights. Layers that were merged share a blob; each counts its rows' part.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    served: str
    why: str = ""
    error: float = 0.0
    before: int = 0
    after: int = 0


@dataclass
class Report:
    """What became of each layer, in the order of the graph; ``str()`` is a table."""

    lines: list[Line] = field(default_factory=list)

    @property
    def before(self) -> int:
        """Bytes of all listed weights in the float model."""
        return sum(line.before for line in self.lines)

    @property
    def after(self) -> int:
        """Bytes of the same weights afterwards."""
        return sum(line.after for line in self.lines)

    @property
    def served(self) -> list[Line]:
        """The layers that the kernels run."""
        return [line for line in self.lines if not line.why]

    def __str__(self) -> str:
        """Return a table, one line a layer."""
        rows = [("layer", "op", "shape", "runs as", "error", "bytes", "after")]
        for line in self.lines:
            shape = " × ".join(map(str, line.shape)) or "?"
            error = "" if line.why else f"{line.error:.4f}"
            size = (str(line.before), str(line.after)) if line.shape or line.before else ("", "")
            runs = f"float: {line.why}" if line.why else line.served
            rows.append((line.name, line.op, shape, runs, error, *size))
        rows.append(("total", "", "", "", "", str(self.before), str(self.after)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(_line(row, widths) for row in rows)


def _line(row: tuple[str, ...], widths: list[int]) -> str:
    cells = [
        text.rjust(width) if at > 3 else text.ljust(width)
        for at, (text, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()
