"""Fetching an official archive once."""

import http.client
import os
import shutil
import urllib.request
import zipfile
from pathlib import Path

from schemas.caches import cache_folder
from simulations.data.base import DataError

TIMEOUT_SECONDS = 10.0


def fetch(url: str, name: str, timeout: float = TIMEOUT_SECONDS) -> Path:
    """Return a zip file from the cache; download it where it is not there.

    Parameters
    ----------
    url : str
        Its official address.
    name : str
        Its file name in the cache.
    timeout : float
        Seconds to wait for the server each time.

    Raises
    ------
    DataError
        Where there is no network, or what came is no zip file.
    """
    target = cache_folder() / name
    if target.is_file():
        return target
    part = target.with_name(f"{name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _download(url, part, timeout)
        part.replace(target)
    except (OSError, http.client.HTTPException) as error:
        raise DataError(
            f"{url}: could not be downloaded to {target}: {error}; download it by hand and set "
            "data.path to the file"
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return target


def _download(url: str, part: Path, timeout: float) -> None:
    """Write what an address gives."""
    # The addresses are constants of the sources, never a user's.
    with urllib.request.urlopen(url, timeout=timeout) as answer, part.open("wb") as file:  # noqa: S310
        shutil.copyfileobj(answer, file)
    if not zipfile.is_zipfile(part):
        raise OSError("what came is no whole zip file")
