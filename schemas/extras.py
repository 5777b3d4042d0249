"""Commands whose packages an extra brings: where one is missing, a line names the extra."""

import re
import sys
from importlib import import_module
from typing import Final

from schemas.release import PACKAGE

_ORDER: Final = (
    "quantize",
    "signed",
    "server",
    "sim",
    "ray",
    "postgres",
)  # server has those before


def start(command: str, module: str, extra: str) -> None:
    """Run a command's ``main``.

    Parameters
    ----------
    command : str
        Its name, before what is wrong.
    module : str
        Where ``main`` is; importing it may need what the extra brings.
    extra : str
        The one that all of the command's words need.
    """
    try:
        import_module(module).main()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        needed = _extra_of(package)
        if needed is None:
            raise
        both = max(needed, extra, key=_ORDER.index)
        sys.exit(f"{command}: needs the package {package}: pip install '{PACKAGE}[{both}]'")


def _extra_of(package: str) -> str | None:
    """The first extra that names a package, as its own metadata have it; None where none does."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        needs = requires(PACKAGE) or []
    except PackageNotFoundError:
        return None
    for need in needs:
        name, extra = re.match(r"[\w.-]+", need), re.search(r"extra == ['\"]([\w-]+)", need)
        ours = name and re.sub(r"[-.]+", "_", name[0]).lower() == package.lower()
        if ours and extra and extra[1] in _ORDER:
            return extra[1]
    return None
