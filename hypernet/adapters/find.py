"""Finding an adapter by its name."""

from typing import Final

from hypernet.adapters.base import Adapter
from schemas.plugins import entry_points

GROUP: Final = "flwr_edge.adapter"


def adapter_class(name: str) -> type[Adapter]:
    """Return the adapter that is installed under a name.

    Raises
    ------
    ValueError
        Where there is none; the message lists those there are.
    TypeError
        Where what is installed is no adapter.
    """
    installed = {point.name: point for point in entry_points(GROUP)}
    if name not in installed:
        known = ", ".join(sorted(installed)) or "none (pip install flwr-edge registers ours)"
        raise ValueError(f"no adapter {name!r}; installed: {known}")
    found = installed[name].load()
    if not (isinstance(found, type) and issubclass(found, Adapter)):
        raise TypeError(f"adapter {name!r} ({installed[name].value}) is no Adapter")
    return found
