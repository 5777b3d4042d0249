"""Where what can be made or fetched again is kept between runs."""

import os
from pathlib import Path
from typing import Final

VARIABLE: Final = "FLWR_EDGE_CACHE"


def cache_folder() -> Path:
    """``$FLWR_EDGE_CACHE``, or ``flwr-edge`` in the user's folder of caches."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flwr-edge"
