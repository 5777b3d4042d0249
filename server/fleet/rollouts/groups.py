"""Groups as an operator writes them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from schemas.base import ConfigError
from schemas.text import decoded

_SHARE: Final = re.compile(r"(\d+(?:\.\d+)?)%")
_KINDS: Final = "tag=TAG, devices=NAME,NAME, file=PATH, a share as in 10%, a number, or rest"


@dataclass(frozen=True)
class GroupSpec:
    """A group as an operator writes it.

    Attributes
    ----------
    text : str
    tag : str, optional
    names : tuple of str
    share : float, optional
        Of the whole fleet.
    count : int, optional
    """

    text: str
    tag: str | None = None
    names: tuple[str, ...] = ()
    share: float | None = None
    count: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read one.

        Raises
        ------
        ConfigError
            Where it is none; the message lists the kinds.
        """
        kind, _, value = text.partition("=")
        if kind == "tag" and value:
            return cls(text, tag=value)
        if kind == "devices" and value:
            return cls(text, names=tuple(filter(None, value.split(","))))
        if kind == "file" and value:
            return cls(text, names=_listed(Path(value)))
        if found := _SHARE.fullmatch(text):
            if 0 < (share := float(found[1]) / 100) <= 1:
                return cls(text, share=share)
        elif text.isdecimal() and int(text):
            return cls(text, count=int(text))
        elif text == "rest":
            return cls(text)
        raise ConfigError("--group", [f"{text[:60]!r}; expected {_KINDS}"])

    def takes(self, left: Sequence[str], fleet: int, tagged: set[str]) -> list[str]:
        """Those of the devices left that are of this group, in the order given."""
        if self.tag is not None:
            return [name for name in left if name in tagged]
        if self.names:
            wanted = set(self.names)
            return [name for name in left if name in wanted]
        if self.share is not None:
            return list(left[: max(1, round(self.share * fleet))])
        return list(left if self.count is None else left[: self.count])


def _listed(path: Path) -> tuple[str, ...]:
    try:
        lines = decoded(path.read_bytes(), f"file={path}").split()
    except (OSError, ConfigError) as error:
        said = error if isinstance(error, ConfigError) else f"file={path}: {error}"
        raise ConfigError("--group", [str(said)]) from None
    if not lines:
        raise ConfigError("--group", [f"file={path}: names no device"])
    return tuple(lines)
