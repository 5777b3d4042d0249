"""How each person of a demonstration fares, round after round."""

from collections.abc import Mapping
from typing import Final

from rich.console import Console
from rich.table import Table

from simulations.progress import Progress

_BAR: Final = 30  # characters of a macro-F1 of 1


class People(Progress):
    """Shows each person's macro-F1 as a bar, and what it gained since the first look.

    A terminal sees every look, elsewhere the first is enough; the last is the result.
    """

    _since: tuple[int, Mapping[str, float]] | None = None
    _kept: Table | None = None

    def begin(self, name: str, rounds: int) -> None:
        """A strategy starts; of the one before, this was no result."""
        self.result(self.console)
        self._since = None
        super().begin(name, rounds)

    def people(self, number: int, scores: Mapping[str, float]) -> None:
        """Show a look, or keep it for the end."""
        quiet = self._since is not None and not self.console.is_terminal
        self._since = self._since or (number, scores)
        table = _bars(number, scores, *self._since)
        if number >= self._rounds:
            self._kept = table
        elif not quiet:
            self.console.print(table)

    def result(self, console: Console) -> None:
        """Show the last look, where there was one; once."""
        if self._kept is not None:
            console.print(self._kept)
        self._kept = None


def _bars(
    number: int, scores: Mapping[str, float], since: int, first: Mapping[str, float]
) -> Table:
    table = Table(title=f"macro-F1 after round {number}", title_justify="left", box=None)
    table.add_column("person")
    table.add_column(min_width=_BAR)  # of every look
    table.add_column("macro-F1", justify="right")
    table.add_column(f"since round {since}", justify="right")
    for person, score in sorted(scores.items()):
        gain = score - first.get(person, score)
        table.add_row(person, "█" * round(score * _BAR), f"{score:.3f}", f"{gain:+.3f}")
    return table
