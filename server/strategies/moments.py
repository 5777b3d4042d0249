"""What Flower's server optimizers remember from round to round, for checkpoints.

They keep it in attributes; FedAvgM's weights are its own besides, as they were before the cast.
"""

from collections.abc import Mapping
from typing import Any, Final

from flwr.app import Array, ArrayRecord
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import Strategy
from numpy.typing import NDArray

_ADAPTIVE: Final = (flower.FedAdagrad, flower.FedAdam, flower.FedYogi)


def remembered(strategy: Strategy) -> dict[str, NDArray[Any]]:
    """Arrays by the attribute and the key, or the place, in it; none before the first round."""
    found = {name: getattr(strategy, name, None) for name in _names(strategy)}
    return {f"{name}/{key}": array for name, value in found.items() for key, array in _parts(value)}


def remember(strategy: Strategy, state: Mapping[str, NDArray[Any]]) -> None:
    """Set the attributes as ``remembered`` told them."""
    for name in _names(strategy):
        parts = {
            key.removeprefix(f"{name}/"): array
            for key, array in state.items()
            if key.startswith(f"{name}/")
        }
        if parts:
            setattr(strategy, name, _whole(name, parts))


def _names(strategy: Strategy) -> tuple[str, ...]:
    if isinstance(strategy, flower.FedAvgM):
        return "momentum_vector", "current_arrays"
    return ("m_t", "v_t") if isinstance(strategy, _ADAPTIVE) else ()


def _parts(value: Any) -> list[tuple[str, NDArray[Any]]]:
    if isinstance(value, ArrayRecord):
        return [(key, array.numpy()) for key, array in value.items()]
    if isinstance(value, list):
        return [(str(place), array) for place, array in enumerate(value)]
    return list((value or {}).items())


def _whole(name: str, parts: dict[str, NDArray[Any]]) -> Any:
    if name == "current_arrays":
        return ArrayRecord({key: Array(array) for key, array in parts.items()})
    if name == "momentum_vector":
        return [parts[str(place)] for place in range(len(parts))]
    return parts
