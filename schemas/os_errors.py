"""What the operating system refused, as a user is to read it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from schemas.caches import VARIABLE, cache_folder


def told(error: OSError) -> str:
    """Say which file it was and what was wrong; where caches can be, if it was about theirs."""
    what = error.strerror or str(error)
    if not error.filename:
        return what
    hint = f"; {VARIABLE} names another folder" if _is_cached(Path(str(error.filename))) else ""
    return f"{error.filename}: {what}{hint}"


@contextmanager
def meant(path: Path, part: Path) -> Iterator[None]:
    """Have errors name the file that the user did, and not the one that becomes it."""
    try:
        yield
    except OSError as error:
        if str(error.filename) == str(part):
            error.filename, error.filename2 = str(path), None
        raise


def _is_cached(path: Path) -> bool:
    """Whether it lies among the caches, or is a folder above them that could not be made."""
    folder = cache_folder()
    return path.is_relative_to(folder) or (folder.is_relative_to(path) and not path.exists())
