"""A sweep's tables."""

from dataclasses import replace

from schemas.summary import Bytes, Days, MacroF1, MethodSummary
from simulations.sweep_table import Cell, csv_of, markdown_of


def cell(method: str, fraction: float, seed: int, mean: float) -> Cell:
    summary = MethodSummary(
        strategy="s",
        rounds=3,
        macro_f1=MacroF1(mean=mean, worst_decile=mean - 0.1),
        client_updates=6,
        failures={"ann": ["round 1: late"]},
        wall_seconds=1,
        client_updates_per_second=6,
        bytes_per_participation=Bytes(down=2000, up=500),
        device_seconds=0.5,
    )
    return Cell(method, fraction, seed, summary)


def test_markdown_has_mean_and_deviation_over_seeds_and_a_dash_where_nothing_ran():
    cells = [cell("a", 0, 0, 0.7), cell("a", 0, 1, 0.8), cell("b", 1, 0, 0.9)]
    assert markdown_of(cells).splitlines() == [
        "|  | no labels | all | bytes down / up |",
        "| --- | --- | --- | --- |",
        "| a | .750 / .650 ± .071 / .071 | – | 2 kB / 0 kB |",
        "| b | – | .900 / .800 | 2 kB / 0 kB |",
    ]


def test_csv_has_a_line_a_run():
    lines = csv_of([cell("a, b", 0.05, 2, 0.5)]).splitlines()
    assert lines[0].startswith("method,strategy,label_fraction,seed,macro_f1")
    assert lines[1] == '"a, b",s,0.05,2,0.5000,0.4000,,2000,500,3,6,0.500,1,,,,'


def test_graphs_have_a_column_where_a_run_says_them():
    old, new = cell("a", 0, 0, 0.7), cell("b", 0, 0, 0.9)
    new = replace(new, summary=new.summary.model_copy(update={"bytes_graphs": 43_210}))
    lines = markdown_of([old, new]).splitlines()
    assert lines[0] == "|  | no labels | bytes down / up | graphs, once |"
    assert [line.split(" | ")[-1] for line in lines[2:]] == ["– |", "43 kB |"]
    assert csv_of([new]).splitlines()[1].endswith(",43210")


def test_csv_counts_what_devices_that_live_through_days_asked_for():
    one = cell("a", 0.0, 0, 0.5)
    days = [Days(first=n, last=n, accuracy=1, macro_f1=1, asked=n, back=2 * n) for n in (1, 2)]
    lived = one.summary.model_copy(update={"days": days})
    assert csv_of([replace(one, summary=lived)]).splitlines()[1].endswith(",1,3,6,,")


def test_a_label_with_a_bar_or_a_line_break_stays_in_its_cell() -> None:
    made = cell("local | π\nours", 0.2, 3, 0.5)
    (row,) = markdown_of([made]).splitlines()[2:]
    assert row.startswith("| local \\| π ours | .500")
