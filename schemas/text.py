"""Text in files that people write, whatever their editor puts before it."""

import codecs
from pathlib import Path
from typing import Final

from schemas.base import ConfigError

_UTF16: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def decoded(data: bytes, where: Path | str) -> str:
    """A file's text, without the mark that some editors begin UTF-8 with.

    Raises
    ------
    ConfigError
        Where it is no UTF-8, with the line; the text is not repeated, since it may be a secret.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
    found = ", and found UTF-16: save it anew" if data.startswith(_UTF16) else ""
    raise ConfigError(str(where), [f"line {line}: expected UTF-8{found}"])


def first_line(data: bytes, where: Path | str) -> str:
    """The first line of a file, without its end.

    Raises
    ------
    ConfigError
        Where the file is no UTF-8.
    """
    return decoded(data, where).partition("\n")[0].removesuffix("\r")
