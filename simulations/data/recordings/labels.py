"""What labels mean: classes, unknown, left out."""

import json
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from simulations.data.base import DataError
from simulations.data.recordings.options import Options

UNKNOWN: Final = -1
LEFT_OUT: Final = -2
MIXED: Final = -3
MAX_CLASSES: Final = 1000


class Labels:
    """Codes by label, over all files."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.names: list[str] = []
        self._codes: dict[str | None, int] = {None: UNKNOWN}

    def codes(self, where: str, text: Any) -> NDArray[np.int64]:
        """Return the code of each cell of a column of text."""
        encoded = text.combine_chunks().dictionary_encode()
        distinct = encoded.dictionary.to_pylist()
        codes = np.array([self.code(where, each) for each in distinct] + [UNKNOWN], np.int64)
        places = encoded.indices.fill_null(len(distinct)).to_numpy(zero_copy_only=False)
        found: NDArray[np.int64] = codes[places]
        return found

    def code(self, where: str, label: str | None) -> int:
        """Return the code of one label."""
        if label not in self._codes:
            self._codes[label] = self._new(where, " ".join((label or "").split()))
        return self._codes[label]

    def _new(self, where: str, label: str) -> int:
        name = self.options.rename.get(label, label)
        if {label, name} & set(self.options.leave_out):
            return LEFT_OUT
        if not name or {label, name} & set(self.options.unknown):
            return UNKNOWN
        if name not in self.names:
            if len(self.names) >= MAX_CLASSES:
                raise DataError(
                    f"{where}: over {MAX_CLASSES} labels, such as {name!r}; is "
                    "data.options.label a column of classes?"
                )
            self.names.append(name)
        return self.names.index(name)

    def notes(self) -> tuple[str, ...]:
        """Tell labels that are the same but for their case."""
        seen: dict[str, str] = {}
        found = []
        for name in self.names:
            plain = "".join(c for c in name.casefold() if c.isalnum())
            if plain and plain in seen:
                found.append(
                    f"classes {seen[plain]!r} and {name!r} are nearly the same; "
                    f"data.options.rename = {{ {_toml(name)} = {_toml(seen[plain])} }} makes them "
                    "one"
                )
            seen.setdefault(plain, name)
        return tuple(found)


def _toml(text: str) -> str:
    """As TOML's basic string, whose escapes are JSON's."""
    return json.dumps(text, ensure_ascii=False)


def majority(
    codes: NDArray[np.int64], starts: NDArray[np.int64], length: int, agreement: float
) -> NDArray[np.int64]:
    """Return each window's label: the one that enough of its samples have, or ``MIXED``."""
    found = np.full(len(starts), MIXED, np.int64)
    for code in np.unique(codes):
        total = np.concatenate([[0], np.cumsum(codes == code)])
        share = (total[starts + length] - total[starts]) / length
        found[share >= agreement - 1e-9] = code
    return found
