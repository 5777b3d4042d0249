"""What a daemon's configuration asks of its service: folders to write to, and a look at homes."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from schemas.base import ConfigError, Strict

if TYPE_CHECKING:
    from client.config import DaemonConfig

_OWN: Final = (Path("/var/lib/flwr-edge"), Path("/run/flwr-edge"))  # the unit's, as it stands
_HOMES: Final = (Path("/home"), Path("/root"), Path("/run/user"))  # what ProtectHome hides


def written(config: "DaemonConfig | None") -> list[Path]:
    """Folders outside the service's own that it must write to: ProtectSystem=strict forbids all.

    Raises
    ------
    ConfigError
        Where a name cannot stand in a unit.
    """
    if config is None:
        return []
    wanted = [config.state, *_sensors(config)]
    if config.rotation is not None:
        wanted.append(config.rotation.identity)
    own = [*_OWN]
    for path in wanted:
        if not any(path.is_relative_to(above) for above in own):
            own.append(path)
    found = own[len(_OWN) :]
    if odd := [path for path in found if not str(path).isprintable() or '"' in str(path)]:
        said = "expected a folder without quotes or control characters"
        raise ConfigError("install-service", [f"{str(path)!r}: {said}" for path in odd])
    return found


def at_home(config: "DaemonConfig | None", *named: Path) -> bool:
    """Whether the service reads something in a home, of what is named or what the file names."""
    paths = [*named]
    if config is not None:
        paths += [*_named(config), *_sensors(config)]
    return any(path.is_relative_to(home) for path in paths for home in _HOMES)


def read(path: Path) -> "DaemonConfig | None":
    """A configuration; None where there is none yet, or none that is good."""
    from client.config import DaemonConfig

    try:
        return DaemonConfig.load(path)
    except ConfigError:
        return None


def _sensors(config: "DaemonConfig") -> tuple[Path, ...]:
    if config.windows.source is None:
        return ()
    from client.sources.gather import checked_settings, source_class

    try:
        source = source_class(config.windows.source)
        return checked_settings(source, config.windows.settings).writes()
    except ConfigError:  # the daemon says what is wrong with it
        return ()


def _named(model: Strict) -> Iterator[Path]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, Path):
            yield value
        elif isinstance(value, Strict):
            yield from _named(value)
