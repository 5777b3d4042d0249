"""When a device may work: on power, unmetered, not busy, at certain hours."""

import datetime as dt
import math
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Protocol

from pydantic import AfterValidator, Field

from schemas.base import Strict

Answer = tuple[bool, str]
Span = tuple[int, int]

_SUPPLIES: Final = Path("/sys/class/power_supply")
_PLUGGED: Final = frozenset({"Charging", "Full", "Not charging"})
_HOURS: Final = re.compile(r"([01]\d|2[0-4]):([0-5]\d)-([01]\d|2[0-4]):([0-5]\d)")
_DAY: Final = 24 * 60
_METERED: Final = {1: True, 2: False, 3: True, 4: False}  # NetworkManager's NMMetered
_ASK_EVERY: Final = 60.0  # seconds for which an answer about the network is good


def _span(text: str) -> Span:
    """Minutes of the day, from and to."""
    found = _HOURS.fullmatch(text)
    if found:
        hour, minute, until_hour, until_minute = map(int, found.groups())
        start, stop = hour * 60 + minute, until_hour * 60 + until_minute
        if start != stop and start < _DAY and stop <= _DAY:
            return start, stop
    raise ValueError('expected hours of the day as in "22:00-06:00"')


def _checked(text: str) -> str:
    _span(text)
    return text


class ConditionsConfig(Strict):
    """The ``[conditions]`` of a device: all that are set must hold.

    Attributes
    ----------
    on_power : bool
        Work on mains alone; a machine without a battery is on mains.
    unmetered : bool
        Work on an unmetered network alone.
    network : "ask", "metered" or "unmetered"
        What the network is; ``ask`` asks NetworkManager.
    max_load : float, optional
        Most load, averaged over a minute and divided by the cores.
    hours : tuple[str, ...]
        Hours of the day by the local clock, as in ``"22:00-06:00"``; empty is any.
    """

    on_power: bool = False
    unmetered: bool = False
    network: Literal["ask", "metered", "unmetered"] = "ask"
    max_load: float | None = Field(None, gt=0)
    hours: tuple[Annotated[str, AfterValidator(_checked)], ...] = ()


class Condition(Protocol):
    """One condition for work."""

    def met(self) -> Answer:
        """Whether it holds, and a line that says why or why not."""
        ...


class Conditions:
    """All conditions of a configuration.

    Parameters
    ----------
    config : ConditionsConfig or mapping
        A mapping, such as a TOML table, is checked first.
    conditions : sequence of Condition, optional
        In place of those that the configuration names.
    """

    def __init__(
        self,
        config: ConditionsConfig | Mapping[str, Any],
        conditions: Sequence[Condition] | None = None,
    ) -> None:
        checked = ConditionsConfig.model_validate(config)
        self._all = _named(checked) if conditions is None else list(conditions)

    def met(self) -> Answer:
        """Whether all hold; the reason is that of the first that does not."""
        for condition in self._all:
            met, reason = condition.met()
            if not met:
                return False, reason
        return True, "all conditions for work are met"


class OnPower:
    """The machine draws from mains, or has no battery.

    Parameters
    ----------
    root : Path
        The kernel's folder of power supplies.
    """

    def __init__(self, root: Path = _SUPPLIES) -> None:
        self._root = root

    def met(self) -> Answer:
        """Read the supplies afresh."""
        supplies = sorted(self._root.iterdir()) if self._root.is_dir() else []
        for supply in supplies:
            if _read(supply / "type") in ("Mains", "USB") and _read(supply / "online") == "1":
                return True, f"on power ({supply.name})"
        # A mouse or a headset has a battery too: its scope is "Device".
        own = [s for s in supplies if _read(s / "type") == "Battery"]
        own = [s for s in own if _read(s / "scope") != "Device"]
        if not own:
            return True, "on power (there is no battery)"
        for battery in own:
            if _read(battery / "status") in _PLUGGED:
                return True, f"on power ({battery.name} is not discharging)"
        return False, "on battery; work waits for power"


class Unmetered:
    """The network in use costs nothing by the byte.

    Parameters
    ----------
    ask : callable() -> int, optional
        NetworkManager's ``Metered`` property: 1 yes, 2 no, 3 and 4 the same but guessed, 0 unknown.
    clock : callable() -> float
        Seconds that only rise.
    """

    def __init__(
        self,
        ask: Callable[[], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask, self._clock = ask or _network_manager, clock
        self._asked, self._answer = -math.inf, 0

    def met(self) -> Answer:
        """Ask, or repeat an answer that is not a minute old."""
        now = self._clock()
        if now - self._asked >= _ASK_EVERY:
            self._asked, self._answer = now, self._ask()
        metered = _METERED.get(self._answer)
        if metered is None:
            return False, (
                "whether the network is metered is not known (no answer from NetworkManager); set "
                'conditions.network to "unmetered" or "metered"'
            )
        if metered:
            return False, "the network is metered; work waits for another"
        return True, "the network is not metered"


class Stated:
    """What the configuration says of the network.

    Parameters
    ----------
    unmetered : bool
    """

    def __init__(self, *, unmetered: bool) -> None:
        self._unmetered = unmetered

    def met(self) -> Answer:
        """Repeat it."""
        kind = "unmetered" if self._unmetered else "metered"
        return self._unmetered, f'conditions.network says "{kind}"'


class LoadUnder:
    """The machine has little else to do.

    Parameters
    ----------
    limit : float
        Of the load a core.
    load : callable() -> tuple of float
        Load averages; the first, over a minute, is read.
    cores : int, optional
    """

    def __init__(
        self,
        limit: float,
        load: Callable[[], tuple[float, ...]] = os.getloadavg,
        cores: int | None = None,
    ) -> None:
        self._limit, self._load = limit, load
        self._cores = cores or os.cpu_count() or 1

    def met(self) -> Answer:
        """Read the load."""
        try:
            load = self._load()[0] / self._cores
        except OSError as error:
            return False, f"the load is not to be read: {error}"
        return load <= self._limit, f"load {load:.2f} a core; at most {self._limit:g}"


class Hours:
    """The local time lies in one of some spans.

    Parameters
    ----------
    spans : sequence of str
        As in ``"22:00-06:00"``: from the first minute to before the last, over midnight too.
    now : callable() -> datetime
    """

    def __init__(
        self,
        spans: Sequence[str],
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now().astimezone(),
    ) -> None:
        self._spans = [_span(text) for text in spans]
        self._names, self._now = ", ".join(spans), now

    def met(self) -> Answer:
        """Look at the clock."""
        now = self._now()
        minute = now.hour * 60 + now.minute
        inside = any(
            start <= minute < stop if start < stop else minute >= start or minute < stop
            for start, stop in self._spans
        )
        return inside, f"{now:%H:%M}; work is done at {self._names}"


def _named(config: ConditionsConfig) -> list[Condition]:
    chosen: list[Condition] = []
    if config.hours:
        chosen.append(Hours(config.hours))
    if config.on_power:
        chosen.append(OnPower())
    if config.max_load is not None:
        chosen.append(LoadUnder(config.max_load))
    if config.unmetered:  # the only one that starts a process: last
        asked = config.network == "ask"
        chosen.append(Unmetered() if asked else Stated(unmetered=config.network == "unmetered"))
    return chosen


def _read(path: Path) -> str:
    """A supply's attribute; empty where it has none or went while it was read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _network_manager() -> int:
    """NetworkManager's word on the connection in use; 0 where it has none."""
    program = shutil.which("busctl")
    if program is None:
        return 0
    name = "org.freedesktop.NetworkManager"
    path = "/" + name.replace(".", "/")
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments
            [program, "--system", "get-property", name, path, name, "Metered"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return 0
    kind, _, value = done.stdout.strip().partition(" ")  # as in "u 4"
    return int(value) if kind == "u" and value.isdigit() else 0
