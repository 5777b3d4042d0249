import pytest
from pydantic import ValidationError

from schemas.summary import Bytes, MacroF1, MethodSummary, Summary

METHOD = {
    "strategy": "fedavg",
    "rounds": 2,
    "macro_f1": {"mean": 0.5, "worst_decile": 0.25},
    "client_updates": 4,
    "wall_seconds": 1.5,
    "client_updates_per_second": 2.0,
    "bytes_per_participation": {"down": 10.0, "up": 2.5},
    "device_seconds": 0.5,
}
SUMMARY = {
    **METHOD,
    "name": "run",
    "dataset": "watch",
    "seed": 0,
    "label_fraction": 0.05,
    "persons": ["a", "b"],
    "classes": ["walk", "run"],
    "baselines": [METHOD],
}


def test_a_summary_survives_its_file():
    summary = Summary.model_validate(SUMMARY)
    assert Summary.model_validate_json(summary.model_dump_json()) == summary
    assert summary.format == 1
    assert type(summary.baselines[0]) is MethodSummary


@pytest.mark.parametrize(
    ("cls", "content"),
    [
        (Summary, SUMMARY),
        (MethodSummary, METHOD),
        (MacroF1, METHOD["macro_f1"]),
        (Bytes, METHOD["bytes_per_participation"]),
    ],
)
def test_unknown_and_missing_keys_are_refused(cls, content):
    cls.model_validate(content)
    with pytest.raises(ValidationError, match="Extra inputs"):
        cls.model_validate({**content, "extra": 1})
    with pytest.raises(ValidationError, match="Field required"):
        cls.model_validate(dict(list(content.items())[1:]))


def test_no_figure_is_nan():
    with pytest.raises(ValidationError):
        MacroF1(mean=float("nan"), worst_decile=0.1)
