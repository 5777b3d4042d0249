"""A plan's words on drift."""

import pytest
from pydantic import ValidationError

from schemas.drift import Drift

BACKBONE = "ab" * 32


@pytest.mark.parametrize(
    "wrong",
    [
        {"backbone": "ab"},
        {"threshold": -0.1},
        {"threshold": float("nan")},
        {"most": 0},
        {"most": 1025},
        {"often": True},
    ],
)
def test_what_is_wrong_is_refused(wrong):
    with pytest.raises(ValidationError):
        Drift(**({"backbone": BACKBONE} | wrong))
