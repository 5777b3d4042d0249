"""What recordings are called, by where they lie."""

import pytest

from schemas.simulation import Data
from simulations.data.paths import named


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (None, "npz"),
        ("../../shared/data/longterm_semg.npz", "longterm_semg.npz"),
        ("~/UCI HAR Dataset/", "UCI HAR Dataset"),
        (".", "npz"),
        ("..", "npz"),
    ],
)
def test_recordings_are_called_as_their_file(path: str | None, name: str) -> None:
    assert named(Data(kind="npz", path=path)) == name
