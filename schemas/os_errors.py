"""What the operating system refused, as a user is to read it."""

from pathlib import Path

from schemas.caches import VARIABLE, cache_folder


def told(error: OSError) -> str:
    """Say which file it was and what was wrong; where caches can be, if it was about theirs."""
    what = error.strerror or str(error)
    if not error.filename:
        return what
    hint = f"; {VARIABLE} names another folder" if _is_cached(Path(str(error.filename))) else ""
    return f"{error.filename}: {what}{hint}"


def _is_cached(path: Path) -> bool:
    """Whether it lies among the caches, or is a folder above them that could not be made."""
    folder = cache_folder()
    return path.is_relative_to(folder) or (folder.is_relative_to(path) and not path.exists())
