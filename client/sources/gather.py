"""A source at work: its thread, its windows on disk, and how it is taken up again."""

import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from client.sources.base import SensorSource, SourceSettings
from client.sources.intake import Intake
from schemas.base import ConfigError, describe
from schemas.plugins import entry_points

log = logging.getLogger(__name__)

GROUP: Final = "flwr_edge.sensor_source"
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 60.0


def source_class(name: str) -> type[SensorSource]:
    """The source of a name.

    Raises
    ------
    ConfigError
        Where none is installed, or it cannot be loaded; the message lists those that are.
    """
    installed = {point.name: point for point in entry_points(GROUP)}
    if name not in installed:
        known = ", ".join(sorted(installed)) or "none (pip install flwr-edge registers ours)"
        raise ConfigError("windows.source", [f"{name!r}: no such source; installed: {known}"])
    try:
        found: type[SensorSource] = installed[name].load()
    except (ImportError, AttributeError) as error:
        raise ConfigError("windows.source", [f"{name!r} cannot be loaded: {error}"]) from error
    return found


def checked_settings(source: type[SensorSource], settings: Mapping[str, Any]) -> SourceSettings:
    """A source's settings, or a ConfigError that says all that is wrong with them."""
    try:
        return source.Settings.model_validate(settings)
    except ValidationError as error:
        allowed = {"": list(source.Settings.model_fields)}
        raise ConfigError("windows.settings", describe(error.errors(), allowed)) from None


def ready(settings: SourceSettings) -> SourceSettings:
    """Settings with which the source can work on this machine, or a ConfigError."""
    if problems := settings.problems():
        raise ConfigError("windows.settings", problems)
    return settings


class Gatherer:
    """Gathers a person's windows from one source.

    Parameters
    ----------
    source : type of SensorSource
    settings : mapping
        The source's, as the daemon's configuration has them.
    folder : Path
        Where windows are kept; ``client.ring.mapped`` reads it.

    Raises
    ------
    ConfigError
        Where the settings are wrong, or cannot work on this machine.
    RingError, OSError
        Where the windows on disk are of another shape, or cannot be opened.
    """

    def __init__(
        self, source: type[SensorSource], settings: Mapping[str, Any], folder: Path
    ) -> None:
        checked = ready(checked_settings(source, settings))
        self._source = source(checked)
        self.intake = Intake(checked, folder)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sensor", daemon=True)

    def start(self) -> None:
        """Gather, on a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Stop, and bring all to the disk."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(5.0)
        if not self._thread.is_alive():
            self.intake.close()

    def status(self) -> dict[str, Any]:
        """What is held and what was odd."""
        return {**self.intake.status(), "gathering": self._thread.is_alive()}

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._stop.is_set():
            before = self.intake.status()["ever"]
            if self._ran():
                return
            pause = _FIRST_PAUSE if self.intake.status()["ever"] > before else pause
            self._stop.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _ran(self) -> bool:
        """Run the source; whether it came to its end."""
        try:
            self._source.run(self.intake, self._stop)
        except OSError as error:
            self.intake.trouble("source", str(error))
        except Exception:
            log.exception("the sensor source broke; it is tried again")
            self.intake.trouble("source", "it broke; see above")
        else:
            return True
        return False
