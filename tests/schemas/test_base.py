import pytest
from pydantic import Field, ValidationError

from schemas.base import ConfigError, Strict, describe


class Inner(Strict):
    size: int = Field(3, ge=1, le=5)


class Outer(Strict):
    inner: Inner = Inner()
    rate: float = 0.1


class Needy(Strict):
    name: str


def problems(cls, content, allowed=None):
    with pytest.raises(ValidationError) as caught:
        cls.model_validate(content)
    return describe(caught.value.errors(), allowed)


def test_a_bound_names_key_value_and_what_is_allowed():
    (line,) = problems(Outer, {"inner": {"size": 9}})
    assert line == "inner.size = 9: input should be less than or equal to 5"


def test_an_unknown_key_lists_what_its_own_table_allows():
    allowed = {"": ["inner", "rate"], "inner": ["size"]}
    lines = problems(Outer, {"inner": {"sise": 1}, "ratte": 1}, allowed)
    assert lines == [
        "inner.sise = 1: unknown key; allowed here: size",
        "ratte = 1: unknown key; allowed here: inner, rate",
    ]
    assert problems(Outer, {"ratte": 1}) == ["ratte = 1: unknown key"]


def test_a_missing_key_says_that_it_has_no_default():
    assert problems(Needy, {}) == ["name: missing; it has no default"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_field_takes_nan_or_infinity(value):
    (line,) = problems(Outer, {"rate": value})
    assert line.startswith(f"rate = {value!r}: input should be a finite number")


def test_schemas_are_frozen():
    with pytest.raises(ValidationError):
        Outer().rate = 1.0


def test_config_error_puts_the_file_before_every_problem():
    error = ConfigError("run.toml", iter(["a: wrong", "b: wrong too"]))
    assert str(error) == "run.toml: a: wrong\nrun.toml: b: wrong too"
    assert error.where == "run.toml"
    assert error.problems == ("a: wrong", "b: wrong too")
