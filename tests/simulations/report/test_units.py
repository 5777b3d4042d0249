import pytest

from simulations.report.units import human_bytes, human_seconds


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999.4, "999 B"),
        (999.6, "1 kB"),
        (1_410_000, "1.41 MB"),
        (47_000, "47 kB"),
        (999_499, "999 kB"),
        (3.2e12, "3.2 TB"),
    ],
)
def test_bytes_are_decimal_with_three_figures(count: float, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.41, "410 ms"), (0.9996, "1 s"), (57, "57 s"), (157, "2 min 37 s"), (7300, "2 h 1 min")],
)
def test_times(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text
