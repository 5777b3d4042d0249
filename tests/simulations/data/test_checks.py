"""What a source of somebody else may return that would give misleading results."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from simulations.data.base import DataError, Recordings
from simulations.data.checks import checked

COUNT = 12
GOOD = Recordings(
    x=np.zeros((COUNT, 5, 3), np.float32),
    y=np.tile([0, 1, -1], 4),
    person=np.repeat([0, 1], 6),
    stream=np.repeat([0, 1], 6),
    start=np.tile(np.arange(6) * 5, 2),
    persons=("ann", "bob"),
    classes=("rest", "walk"),
    channels=("x", "y", "z"),
    hz=50.0,
    magnitudes=((0, 1, 2),),
)


def spoiled(window: int, value: float) -> Any:
    x = GOOD.x.copy()
    x[window, 2, 1] = value
    return x


def test_good_ones_stay_what_they_are() -> None:
    made = checked(GOOD, "own")
    assert made == GOOD or all(
        getattr(made, key) is getattr(GOOD, key) for key in ("x", "y", "person", "stream", "start")
    )
    half = replace(GOOD, x=GOOD.x.astype(np.float16))
    assert checked(half, "own").x is half.x


def test_types_become_those_that_recordings_name() -> None:
    made = checked(
        replace(
            GOOD,
            x=GOOD.x.astype(np.float64),
            y=GOOD.y.astype(np.int8).tolist(),
            person=GOOD.person.astype(np.int32),
            persons=["ann", "bob"],  # type: ignore[arg-type]
        ),
        "own",
    )
    assert (made.x.dtype, made.y.dtype, made.person.dtype) == (np.float32, np.int64, np.int64)
    assert made.persons == ("ann", "bob")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"y": GOOD.y + 1}, "y: entry 1 is 2; expected an index into 2 classes, or -1 where"),
        ({"y": GOOD.y - 1}, "y: entry 2 is -2; expected an index into 2 classes"),
        ({"y": GOOD.y[:-5]}, r"y: shape \(7,\); expected \(12,\), one a window of X"),
        ({"y": GOOD.y * 1.0}, "y: type float64; expected whole numbers"),
        ({"person": GOOD.person + 1}, "person: entry 6 is 2; expected an index into 2 persons"),
        ({"start": GOOD.start - 1}, "start: entry 0 is -1; expected the first sample, from 0"),
        ({"stream": GOOD.stream[:-1]}, r"stream: shape \(11,\); expected \(12,\)"),
        ({"x": spoiled(7, np.nan)}, r"x: window 7 \(person 'bob'\) holds NaN or infinity"),
        ({"x": spoiled(1, np.inf)}, r"x: window 1 \(person 'ann'\) holds NaN or infinity"),
        ({"x": GOOD.x[..., 0]}, r"x: shape \(12, 5\); expected \(windows, time, channels\)"),
        ({"x": GOOD.x.astype(str)}, "x: type <U32; expected real numbers"),
        ({"persons": ("ann", "ann")}, "persons: a name stands twice; every person needs one"),
        ({"classes": ("rest", "rest")}, "classes: a name stands twice; every class needs one"),
        ({"persons": (1, 2)}, "persons: 1 is no string; expected a row of names"),
        ({"channels": ("x", "y")}, "channels: 2 names for 3 channels of x"),
        ({"hz": 0.0}, "hz: is 0.0; expected a number above 0"),
        ({"magnitudes": ((0, 3),)}, "magnitudes: entry 1 is 3; expected one of 3 channels"),
        ({"roles": ("source",)}, "roles: 1 for 2 persons; expected one a person, or none"),
        ({"roles": ("source", "x")}, "roles: 'x'; expected one of source, client, unseen"),
        ({"lives": (("ann", 1),)}, "lives: 1 for 2 persons; expected one a person, or none"),
    ],
)
def test_what_is_wrong_is_named_in_the_words_of_npz(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=f"^data source 'own': {said}"):
        checked(replace(GOOD, **wrong), "own")


def test_something_else_than_recordings_is_refused() -> None:
    with pytest.raises(DataError, match=r"'own': load\(\) returned NoneType; expected Recordings"):
        checked(None, "own")
