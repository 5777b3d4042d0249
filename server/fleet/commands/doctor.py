"""``flwr-fleet doctor``."""

from dataclasses import asdict

from server.fleet.commands.options import Fleet, FleetOption, Format, Formats, answer, columns
from server.fleet.errors import FoundError


def doctor(fleet: FleetOption = None, format_: Formats = Format.table) -> None:
    """Check a deployment, and say what to do about each fault; nothing is changed.

    Looks at certificates, keys, revocation lists, database, audit log, signing key, bundles,
    broker, ports, clock and disk. Run it where `flwr-fleet serve` runs, as its account.

    Exit codes: 0 all is well, warnings aside; 5 something is wrong, and what, is printed;
    2 fleet.toml itself is wrong.

    Example: flwr-fleet doctor --format json
    """
    from server.fleet.doctor import examine

    opened = Fleet(fleet)
    found = examine(opened.folder, opened.config)
    rows = [(one.state, one.name, one.seen) for one in found]
    advice = [f"{one.name}: {one.advice}" for one in found if one.advice]
    table = columns(("state", "check", "seen"), rows)
    answer([asdict(one) for one in found], format_, lambda: "\n".join([table, "", *advice]).strip())
    faults = sum(one.state == "fault" for one in found)
    if faults:
        raise FoundError(f"{faults} fault{'s' * (faults != 1)}")
