"""Which release this is."""

from typing import Final

PACKAGE: Final = "flwr-edge"


def release() -> str:
    """The version of the package that is installed; "" where none is."""
    from importlib import metadata  # 30 ms that few commands need

    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        return ""
