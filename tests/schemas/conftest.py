"""What every schema's tests ask: both sides of each bound, and unknown keys."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

Check = Callable[..., None]


@pytest.fixture
def bounds() -> Check:
    """Check that a field takes the values given and refuses the others, naming the field."""

    def check(
        cls: type[BaseModel], base: dict[str, Any], key: str, good: list[Any], bad: list[Any]
    ) -> None:
        for value in good:
            cls.model_validate({**base, key: value})
        for value in bad:
            with pytest.raises(ValidationError) as caught:
                cls.model_validate({**base, key: value})
            assert all(error["loc"][0] == key for error in caught.value.errors()), value

    return check
