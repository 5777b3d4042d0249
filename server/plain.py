"""Text from outside, as databases, logs and terminals take it."""

from typing import Final

_CONTROL: Final = {code: f"\\x{code:02x}" for code in (*range(32), 127)}


def plain(text: str, most: int) -> str:
    """Printable ASCII, at most so long: the rest is escaped, so that no line can be forged.

    PostgreSQL refuses a text with NUL, and what is escaped already stays as it is.
    """
    return text.encode("ascii", "backslashreplace").decode().translate(_CONTROL)[:most]
