"""Errors that are no fault of this program: one message for people, and an exit code."""

from typing import Final

from schemas.base import ConfigError
from schemas.os_errors import told

DONE: Final = 0
FAILED: Final = 1
BAD_INPUT: Final = 2
INTERRUPTED: Final = 130


def explained(error: Exception) -> tuple[str, int] | None:
    """The message and the exit code of an error that a user can do something about; else None."""
    if isinstance(error, ConfigError):
        return str(error), BAD_INPUT
    if isinstance(error, OSError):
        return told(error), FAILED
    code = _code_of(error)
    return None if code == DONE else (str(error), code)


def _code_of(error: Exception) -> int:
    """Exit code of an error whose message is all that a user needs; ``DONE`` for any other.

    The errors are imported here and not where they are expected: with them come torch and Flower,
    which who asks for help or lists runs need not wait for.
    """
    from simulations.data.base import DataError
    from simulations.report.files import RunError

    if isinstance(error, DataError):
        return BAD_INPUT
    if isinstance(error, RunError):
        return FAILED
    from server.checkpoint import CheckpointError
    from server.install import InstallError
    from server.rounds import RoundsError
    from simulations.engine.pool import WorkerError

    ours = isinstance(error, CheckpointError | InstallError | RoundsError | WorkerError)
    return FAILED if ours else DONE
