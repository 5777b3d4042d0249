"""``flwr-fleet doctor``: looks at a whole deployment and says what to do about what is wrong.

A check is a generator of findings; a group of them is one file here. A check that cannot be made at
all is a finding too: what broke it is a fault of the deployment, whatever it is.
"""

from collections.abc import Iterator
from typing import Final

from schemas.fleet import FleetConfig, FleetFolder
from server.fleet.doctor import broker, certificates, machine, registry
from server.fleet.doctor.finding import Check, Deployment, Finding, fault

CHECKS: Final[dict[str, Check]] = (
    certificates.CHECKS | registry.CHECKS | broker.CHECKS | machine.CHECKS
)
_ADVICE: Final = "mend what this says, or the faults beside it, and look again"


def examine(folder: FleetFolder, config: FleetConfig) -> list[Finding]:
    """All findings on a fleet, in the order of ``CHECKS``."""
    it = Deployment(folder, config)
    return [finding for name, check in CHECKS.items() for finding in _all(name, check, it)]


def _all(name: str, check: Check, it: Deployment) -> Iterator[Finding]:
    try:
        yield from check(it)
    except Exception as error:  # noqa: BLE001 - a broken file may break a library in any way
        line = next(iter(str(error).splitlines()), "")
        yield fault(name, f"could not be checked: {type(error).__name__}: {line}", _ADVICE)


__all__ = ["CHECKS", "Deployment", "Finding", "examine"]
