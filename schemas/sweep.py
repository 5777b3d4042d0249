"""The sweep file: a grid of methods, label fractions and seeds over one simulation file."""

from typing import Annotated

from pydantic import Field, model_validator

from schemas.base import Strict
from schemas.simulation import Fraction, Name, Whole

Seed = Annotated[Whole, Field(ge=0, lt=2**32)]


class Method(Strict):
    """A row of the table: a strategy and what it changes in the simulation file."""

    label: str = Field(min_length=1, max_length=80, description="The row's name in the table.")
    strategy: Name
    set: tuple[str, ...] = Field((), description="Overrides, as of `flwr-sim run --set`.")
    label_fractions: tuple[Fraction, ...] | None = Field(
        None, description="Only these of a grid's; all of them if left out."
    )


class Grid(Strict):
    """Label fractions × seeds × methods."""

    label_fractions: tuple[Fraction, ...] = Field(min_length=1)
    seeds: tuple[Seed, ...] = Field((0,), min_length=1)
    only: tuple[str, ...] = Field((), description="Labels of methods; all of them if left out.")


class Sweep(Strict):
    """A sweep file."""

    name: Name
    base: str = Field(description="The simulation file, relative to this one.")
    set: tuple[str, ...] = Field((), description="Overrides of all cells; a method's come later.")
    grids: tuple[Grid, ...] = Field(min_length=1, description="Cells that several have run once.")
    methods: tuple[Method, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _labels_exist(self) -> "Sweep":
        labels = {method.label for method in self.methods}
        unknown = sorted({label for grid in self.grids for label in grid.only} - labels)
        if unknown:
            raise ValueError(
                f"no method is labelled {', '.join(unknown)}; there are: "
                f"{', '.join(sorted(labels))}"
            )
        return self

    @model_validator(mode="after")
    def _labels_differ(self) -> "Sweep":
        labels = [method.label for method in self.methods]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"two methods have the same label: {', '.join(twice)}")
        return self
