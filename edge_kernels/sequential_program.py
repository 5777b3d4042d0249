"""Programs of `LutSequential`, as they grow (csrc/sequential_program.h is their form)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

if TYPE_CHECKING:
    pass

VERSION = 1
LINEAR, CONV, RELU, POOL, REDUCE, CONCAT, ADD, AFFINE, RESHAPE, TRANSPOSE = range(1, 11)

Array = NDArray[Any]
Shape = tuple[int, ...]


class Unfused(Exception):  # noqa: N818
    """Why a node cannot be part of a program."""


class Unmade(Unfused):
    """A tensor that a node reads and the program does not make."""

    def __init__(self, name: str) -> None:
        super().__init__(f"it reads {name}, which the program does not make")
        self.name = name


@dataclass
class Value:
    """A tensor that a program knows: its number, and its shape without the batch."""

    number: int
    shape: Shape


@dataclass
class Program:
    """A program that grows node by node.

    Attributes
    ----------
    source : str
        The tensor that it reads.
    input_shape : tuple of int
        Of the source, without the batch: (C, L) or (N,).
    constant : name → array or None
        Looks up a tensor that is the same at every run.
    sole : name → bool
        Whether exactly one node reads a tensor, and the graph does not return it.
    batch : int
        Samples, where the graph fixes their number; else 0.
    """

    source: str
    input_shape: Shape
    constant: Callable[[str], Array | None]
    sole: Callable[[str], bool]
    instructions: list[list[int]] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    constants: list[Array | str] = field(default_factory=list)
    layers: int = 0
    batch: int = 0

    def __post_init__(self) -> None:
        self.values[self.source] = Value(0, self.input_shape)

    def code(self) -> list[int]:
        """Return the attribute ``program``."""
        return [VERSION, *(number for each in self.instructions for number in each)]

    def value(self, name: str) -> Value:
        """Return a tensor's value."""
        if name not in self.values:
            raise Unmade(name)
        return self.values[name]

    def emit(self, output: str, shape: Shape, *instruction: int) -> None:
        """Append an instruction that makes a tensor."""
        if len(shape) not in (1, 2):
            raise Unfused(f"its result has {len(shape) + 1} axes; 2 or 3 are served")
        self.instructions.append(list(instruction))
        self.values[output] = Value(len(self.instructions), shape)

    def keep(self, constant: Array | str) -> int:
        """Return the number of a constant: an array, or the name of an initializer."""
        if isinstance(constant, str):
            for number, known in enumerate(self.constants):
                if isinstance(known, str) and known == constant:
                    return number
        self.constants.append(constant)
        return len(self.constants) - 1

    def made_last(self, name: str) -> list[int] | None:
        """Return the instruction that made a tensor if the next may still become part of it."""
        number = self.values[name].number
        names = [each for each, value in self.values.items() if value.number == number]
        alone = number > 0 and all(self.sole(each) for each in names)  # under no name read twice
        return self.instructions[number - 1] if alone else None
