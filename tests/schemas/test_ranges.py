import pytest
from pydantic import ValidationError

from schemas.ranges import RangeTask

GRAPH = "a" * 64


def test_the_usual_question_has_few_bins_and_no_noise():
    task = RangeTask(graph=GRAPH)
    assert (task.bins, task.windows, task.noise, task.kind) == (64, 256, 0.0, "laplace")
    assert RangeTask.model_validate_json(task.model_dump_json()) == task


@pytest.mark.parametrize(
    "wrong",
    [
        {"graph": "b"},
        {"bins": 1},
        {"bins": 257},
        {"windows": 15},
        {"noise": -0.1},
        {"noise": float("nan")},
        {"kind": "uniform"},
        {"window": 3},
    ],
)
def test_a_question_that_tells_too_much_or_is_none(wrong):
    with pytest.raises(ValidationError):
        RangeTask(**{"graph": GRAPH, **wrong})
