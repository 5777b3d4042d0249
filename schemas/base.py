"""The strict base of every schema, and how a validation error reads."""

from collections.abc import Iterable
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

_LONGEST: Final = 120  # characters of a value that a message repeats


class Strict(BaseModel):
    """A frozen model that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ConfigError(ValueError):
    """One or more things wrong in a file that a user wrote.

    Parameters
    ----------
    where : str
        The file (or command line) that is wrong.
    problems : Iterable[str]
        One line a problem: key, value and what is allowed.
    """

    def __init__(self, where: str, problems: Iterable[str]) -> None:
        self.where = where
        self.problems = tuple(problems)
        super().__init__("\n".join(f"{where}: {problem}" for problem in self.problems))


def describe(errors: Iterable[Any], allowed: dict[str, list[str]] | None = None) -> list[str]:
    """Turn pydantic's errors into lines that name key, value and what is allowed.

    Parameters
    ----------
    errors : Iterable[dict]
        ``ValidationError.errors()``.
    allowed : dict[str, list[str]], optional
        Keys allowed in each table, by the table's dotted path ("" is the root); an unknown key's
        message lists them.
    """
    lines = []
    for error in errors:
        key = ".".join(str(part) for part in error["loc"])
        given = _short(error["input"])
        if error["type"] == "extra_forbidden":
            # An entry of an array of tables has the array's keys: its number is none.
            table = ".".join(part for part in error["loc"][:-1] if isinstance(part, str))
            known = ", ".join((allowed or {}).get(table, []))
            lines.append(
                f"{key} = {given}: unknown key" + (f"; allowed here: {known}" if known else "")
            )
        elif error["type"] == "missing":
            lines.append(f"{key}: missing; it has no default")
        else:
            message = error["msg"].removeprefix("Value error, ")
            where = f"{key} = {given}: " if key else ""
            lines.append(f"{where}{message[:1].lower()}{message[1:]}")
    return lines


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
