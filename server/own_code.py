"""Digests of code that is none of ours: what was made by it is stale once it changes."""

import hashlib
import marshal
import sys
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from types import FunctionType
from typing import Final

_OURS: Final = {"schemas", "hypernet", "edge_kernels", "client", "server", "simulations"}
_KNOWN: Final = _OURS | sys.stdlib_module_names | {"flwr", "numpy", "pydantic", "torch"}


def own_code(classes: Iterable[type]) -> str:
    """Digest of classes that somebody else wrote; "" where there are none.

    Of each, and of its bases: its name, and the sources of its module, or of the whole package that
    this is in; its methods as they are compiled, where a function made it or no file holds it.

    Parameters
    ----------
    classes : Iterable[type]
        In any order; ours, Flower's and torch's do not count.
    """
    foreign = {base for cls in classes for base in cls.__mro__ if not _known(base)}
    if not foreign:
        return ""
    files = {one: list(_sources(one.__module__)) for one in foreign}
    made = {one for one in foreign if "<locals>" in one.__qualname__ or not files[one]}
    parts = [f"{one.__module__} {one.__qualname__}" for one in foreign]
    parts += [_methods(one) for one in made]
    parts += [file_digest(path) for path in {path for paths in files.values() for path in paths}]
    return hashlib.sha256("\n".join(sorted(parts)).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, which is read again where its size or its time of change is another."""
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=100_000)
def _digest(path: Path, size: int, changed: int) -> str:  # noqa: ARG001 — they key the cache
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _known(cls: type) -> bool:
    return cls.__module__.partition(".")[0] in _KNOWN


def _methods(cls: type) -> str:
    """Digest of the functions in a class, on this machine and in this Python."""
    functions = {name: f for name, f in vars(cls).items() if isinstance(f, FunctionType)}
    digest = hashlib.sha256()
    for name, function in sorted(functions.items()):
        # Version 2 writes no references, of which there are more or fewer by who else holds them.
        digest.update(name.encode() + marshal.dumps(function.__code__, 2))
    return digest.hexdigest()


def _sources(module: str) -> Iterator[Path]:
    """The file of a module, and those of the package that it is in, where it is in one."""
    names = module.split(".")
    for depth in range(1, len(names) + 1):
        found = sys.modules.get(".".join(names[:depth]))
        file = getattr(found, "__file__", None)
        if file is None:  # a namespace, or typed in
            continue
        whole = hasattr(found, "__path__")
        paths = Path(file).parent.rglob("*.py") if whole else [Path(file)]
        yield from (path for path in paths if path.is_file())  # none in an archive
        return


__all__ = ["file_digest", "own_code"]
