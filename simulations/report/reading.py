"""Reading a run's files back, with errors that say what is wrong with them."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from schemas.base import describe
from simulations.report.files import RunError


def read_text(path: Path) -> str:
    """Return a text file's content.

    Raises
    ------
    RunError
        Where it cannot be read, or is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise RunError(f"{path}: no text: {error.reason} at byte {error.start}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON file's object.

    Raises
    ------
    RunError
        Where the file is cut short, or holds something else.
    """
    try:
        found = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise RunError(f"{path}: cut short or no JSON: {error}") from error
    if not isinstance(found, dict):
        raise RunError(f"{path}: no run's summary: it holds no object")
    return found


def foreign(path: Path, error: ValidationError) -> RunError:
    """Return the error for a file that does not fit its schema, in one line."""
    problems = describe(error.errors())
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return RunError(f"{path}: not what flwr-sim wrote: {problems[0][:200]}{more}")
