"""What a daemon's configuration asks of its service: folders to write to, and a look at homes."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from client.files import user_name
from schemas.base import ConfigError, Strict

if TYPE_CHECKING:
    from client.config import DaemonConfig
    from client.sources import SourceSettings

_OWN: Final = (Path("/var/lib/flwr-edge"), Path("/run/flwr-edge"))  # the unit's, as it stands
_HOMES: Final = (Path("/home"), Path("/root"), Path("/run/user"))  # what ProtectHome hides
_PRIVATE: Final = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - what PrivateTmp hides


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
    paths = [*named, *_all(config)]
    return any(path.is_relative_to(home) for path in paths for home in _HOMES)


def check(config: "DaemonConfig | None") -> None:
    """Refuse what the service would look for in vain.

    Raises
    ------
    ConfigError
        Where something lies in /tmp: PrivateTmp gives the service one of its own, empty.
    """
    hidden = [path for path in _all(config) if any(map(path.is_relative_to, _PRIVATE))]
    if hidden:
        said = "the service has a /tmp of its own, where nobody else sees it; name another folder"
        raise ConfigError("install-service", [f"{path}: {said}" for path in hidden])


def read(path: Path, base: Path) -> "DaemonConfig | None":
    """A configuration; None where there is none yet, or none that is good.

    Parameters
    ----------
    path : Path
    base : Path
        Where relative paths in it start: its folder once it is in its place, out of an image.

    Raises
    ------
    ConfigError
        Where this user may not read it: a unit made without it would allow too little.
    """
    from client.config import DaemonConfig

    if path.exists() and not os.access(path, os.R_OK):
        said = f"{path}: {user_name()} cannot read it, and it says what the unit is to allow"
        raise ConfigError("install-service", [f"{said}; try sudo"])
    try:
        return DaemonConfig.load(path, base)
    except ConfigError:
        return None


def _all(config: "DaemonConfig | None") -> list[Path]:
    """What the file names, its sensor's settings included."""
    if config is None:
        return []
    settings = _settings(config)
    return [*_named(config), *(_named(settings) if settings else ())]


def _sensors(config: "DaemonConfig") -> tuple[Path, ...]:
    settings = _settings(config)
    return settings.writes() if settings else ()


def _settings(config: "DaemonConfig") -> "SourceSettings | None":
    if config.windows.source is None:
        return None
    from client.sources.gather import checked_settings, source_class

    try:
        return checked_settings(source_class(config.windows.source), config.windows.settings)
    except ConfigError:  # the daemon says what is wrong with it
        return None


def _named(model: Strict) -> Iterator[Path]:
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, Path):
            yield value
        elif isinstance(value, Strict):
            yield from _named(value)
