"""What is known of well-known sets and does not stand in their files."""

from collections.abc import Iterable

SIX_CHANNELS = ("acc-x", "acc-y", "acc-z", "gyro-x", "gyro-y", "gyro-z")
SIX_CHANNEL_MAGNITUDES = ((0, 1, 2), (3, 4, 5))

UCI_HAR_NOTE = "UCI HAR: test data only; its readme forbids commercial use"
WISDM_PERSONS = tuple(str(number) for number in range(1600, 1651))


def wisdm_missing(persons: Iterable[str]) -> tuple[str, ...]:
    """Return the note that names the WISDM-51 persons who are not among ``persons``, if any."""
    missing = sorted(set(WISDM_PERSONS) - set(persons))
    if not missing:
        return ()
    return (f"WISDM-51: {len(missing)} of 51 persons are missing: {', '.join(missing)}",)


def notes_for(stem: str, persons: Iterable[str]) -> tuple[str, ...]:
    """Return the notes of a set that its file's name gives away.

    Parameters
    ----------
    stem : str
        The file's name without its ending.
    persons : Iterable[str]
        Names of the persons in it.
    """
    if stem.startswith("wisdm51"):
        return wisdm_missing(persons)
    if stem.startswith("uci_har"):
        return (UCI_HAR_NOTE,)
    return ()
