"""Why a baseline came to no result."""

from schemas.summary import Summary


def reason(summary: Summary, name: str) -> str:
    """Return what a run's notes say of a baseline that failed; the first of them is the cause.

    Parameters
    ----------
    summary : Summary
    name : str
        One of ``summary.failed``.
    """
    begins = f"{name}: "
    for note in summary.notes:
        if note.startswith(begins):
            return note.removeprefix(begins)
        if note.startswith(f"strategy {name!r} "):
            return note
    return "the run does not say why"
