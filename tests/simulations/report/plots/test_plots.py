import io
import re
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.image import imread

from server.outcome import Outcome, RoundRecord
from simulations.report.plots import confusion, cost, curves, draw, persons, style


def test_every_figure_is_a_png_and_an_svg_in_the_pages_colours(small: Any) -> None:
    plots = draw(small.summary, small.outcomes)
    assert list(plots) == ["curves", "bytes", "persons", "confusion"]
    for plot in plots.values():
        assert imread(io.BytesIO(plot.png)).shape[1] == 1080
        assert plot.svg.startswith('<svg role="img" aria-label="')
        assert "var(--accent)" in plot.svg
        assert style.INK not in plot.svg


def test_the_same_run_gives_the_same_bytes_and_leaves_settings_alone(small: Any) -> None:
    before = dict(mpl.rcParams)
    once, again = (draw(small.summary, small.outcomes[:2])["bytes"] for _ in range(2))
    assert once == again
    assert dict(mpl.rcParams) == before


def test_what_would_be_one_dot_is_not_drawn(make: Callable[..., Any]) -> None:
    alone = make(persons=2, strategies=1, rounds=1)
    assert list(draw(alone.summary, alone.outcomes)) == ["persons", "confusion"]
    longer = make(persons=2, strategies=1, rounds=2)
    assert list(draw(longer.summary, longer.outcomes)) == ["curves", "persons", "confusion"]


def test_a_figure_says_its_data_to_who_cannot_see_it(small: Any) -> None:
    plots = draw(small.summary, small.outcomes)
    said = {
        name: plot.svg.partition('aria-label="')[2].partition('"')[0]
        for name, plot in plots.items()
    }
    score = f"{small.summary.macro_f1.mean:.3f}"
    assert f"round 20 {score}; source-adabn 0." in said["curves"]
    assert said["bytes"].startswith(f"Macro-F1 against bytes: semipfl {score} at ")
    assert "semipfl, clients: person-1600 0." in said["persons"]
    assert "never seen in training: person-1700 0." in said["persons"]
    assert said["confusion"].startswith("Confusion matrix of semipfl: right are PEN ")


def test_many_persons_are_said_by_their_extent(make: Callable[..., Any]) -> None:
    outcomes = make(persons=80, strategies=2).outcomes
    assert re.search(r"clients: 0\.\d{3} to 1\.000; never", persons.said(outcomes))


def test_a_baseline_without_results_is_not_drawn(small: Any) -> None:
    empty = Outcome("ditto")
    assert "ditto" not in draw(small.summary, [*small.outcomes, empty])["bytes"].svg


def test_a_wall_of_classes_is_a_wide_figure_without_numbers() -> None:
    counts = np.eye(40, dtype=np.int64) * 3
    outcome = Outcome("semipfl", confusion={"p": counts})
    with style.applied():
        made = confusion.figure(outcome, [f"class {n}" for n in range(40)])
    assert made.get_figwidth() < 12
    assert [text.get_text() for text in made.axes[0].texts] == ["3"] * 40 + ["n"]


def test_a_class_that_nobody_did_divides_by_nothing() -> None:
    outcome = Outcome("semipfl", confusion={"p": np.diag([3, 0])})
    with style.applied(), warnings.catch_warnings():
        warnings.simplefilter("error")
        made = confusion.figure(outcome, ("a", "b"))
        style.png(made, "x")
    assert [text.get_text() for text in made.axes[0].texts] == ["100", "3", "0", "n"]


def test_persons_stand_best_first_and_those_without_result_last() -> None:
    assert persons._rows({"main": {"a": 0.2, "b": 0.9}, "other": {"c": 1.0}}) == ["b", "a", "c"]


def test_many_persons_are_sorted_curves(make: Callable[..., Any]) -> None:
    made = make(persons=80, strategies=3)
    with style.applied():
        clients, unseen = persons.figure(made.outcomes).axes
    assert clients.get_xlabel().startswith("share")
    assert [len(line.get_xdata()) for line in clients.lines] == [80, 80, 80]
    assert [len(line.get_xdata()) for line in unseen.lines] == [2, 2, 2]


@pytest.mark.parametrize(("people", "first"), [(6, "Best first."), (80, "Each method's people,")])
def test_the_caption_is_of_what_is_drawn(make: Callable[..., Any], people: int, first: str) -> None:
    assert persons.caption(make(persons=people, strategies=2).outcomes).startswith(first)
    alone = persons.caption(make(persons=people, strategies=2, unseen=0).outcomes)
    assert "never seen" not in alone


def test_the_last_point_of_a_curve_is_the_result(small: Any) -> None:
    rounds, scores = curves.points(small.outcomes[0])
    assert rounds == [5, 10, 15, 20]
    assert scores[-1] == small.summary.macro_f1.mean


def test_losses_of_two_objectives_share_an_axis_and_noise_is_no_zigzag(
    make: Callable[..., Any],
) -> None:
    made = make(persons=2, strategies=3, rounds=4)
    for record, loss in zip(made.outcomes[0].rounds, (0.80, 0.81, 0.80, 0.80), strict=True):
        record.loss = loss
    for record in made.outcomes[2].rounds:
        record.loss = 0.02
    with style.applied():
        above, below = curves.figure(made.outcomes).axes
    np.testing.assert_allclose(below.lines[0].get_ydata(), [1, 1.0125, 1, 1])
    np.testing.assert_allclose(below.lines[1].get_ydata(), 1)
    for axes in (above, below):
        low, high = axes.get_ylim()
        assert high - low >= 0.1 - 1e-9
    nothing = float("nan")
    np.testing.assert_array_equal(curves.relative([nothing, 0.0, 4.0, 2.0])[2:], [1, 0.5])
    assert curves.relative([-2.0, -3.0]) == [-1, -1.5]
    assert curves.relative([0.0]) == [0]


def test_an_axis_of_scores_is_widened_and_ends_at_one() -> None:
    np.testing.assert_allclose(style.widened(0.80, 0.81), (0.755, 0.855))
    np.testing.assert_allclose(style.widened(0.98, 0.99), (0.90, 1.0))
    assert style.widened(0.2, 0.9) == (0.2, 0.9)


def test_a_strategy_without_rounds_is_a_dotted_line(make: Callable[..., Any]) -> None:
    made = make(persons=2, strategies=2, rounds=3)
    evaluated = RoundRecord(0, 0, float("nan"), 0, 0, 0, 0.0, macro_f1=0.75)
    made.outcomes[1].rounds = [evaluated]
    with style.applied():
        above, below = curves.figure(made.outcomes).axes
    score = curves.result(made.outcomes[1])
    (line,) = [line for line in above.lines if list(line.get_ydata()) == [score, score]]
    assert line.get_linestyle() == "--"  # dots are dashes of length 1
    assert len(below.lines) == 1
    made.outcomes[0].rounds = [evaluated]
    assert "curves" not in draw(made.summary, made.outcomes)


def test_a_round_that_everybody_failed_is_a_gap(make: Callable[..., Any]) -> None:
    made = make(persons=2, strategies=2, rounds=3)
    records = made.outcomes[0].rounds
    records[1] = type(records[1])(2, 2, float("nan"), 2, 0, 0, 1.0)
    with style.applied():
        assert curves.figure(made.outcomes).axes


def test_a_point_alone_is_a_dot_where_a_line_would_show_nothing(make: Callable[..., Any]) -> None:
    made = make(persons=2, strategies=9, rounds=1)
    with style.applied():
        above, below = curves.figure(made.outcomes).axes
    lines = [line for axes in (above, below) for line in axes.lines if len(line.get_xdata()) == 1]
    assert len(lines) == 2 * sum(map(curves.has_rounds, made.outcomes))
    assert all(line.get_marker() and line.get_markevery() in (None, [0]) for line in lines)
    nothing = float("nan")
    assert curves.lonely([0.5, nothing, 0.4, 0.3, nothing, 0.2]) == [0, 5]
    assert curves.lonely([0.5, 0.4]) == []


@pytest.mark.parametrize(("most", "scale"), [(2, "linear"), (20, "logarithmic")])
def test_the_axis_of_bytes_says_its_scale(make: Callable[..., Any], most: int, scale: str) -> None:
    made = make(persons=2, strategies=2)
    for factor, outcome in zip((1, most), made.outcomes, strict=True):
        outcome.bytes_down, outcome.bytes_up = 1000 * factor, 0
    with style.applied():
        (axes,) = cost.figure(made.outcomes).axes
    assert axes.get_xlabel() == f"bytes a person, whole run ({scale})"


def test_bytes_of_one_decade_have_more_than_one_tick() -> None:
    with style.applied():
        axes = style.new(3).subplots()
        low, high = cost._axis(axes, [1.6e3, 3e4])
        seen = [tick for tick in axes.xaxis.get_major_locator()() if low <= tick <= high]
        said = [axes.xaxis.get_major_formatter()(tick, 0) for tick in seen]
    assert said == ["2 kB", "5 kB", "10 kB", "20 kB"]


def test_bytes_that_differ_tenfold_stand_on_decades_with_nothing_apart() -> None:
    with style.applied():
        axes = style.new(3).subplots()
        assert cost._axis(axes, [0, 1e5, 1e7]) == [4.5, 5.0, 7.0]
        labels = [axes.xaxis.get_major_formatter()(x, 0) for x in (4.5, 5.0, 6.0)]
        assert labels == ["0", "100 kB", "1 MB"]
        assert cost._axis(style.new(3).subplots(), [100, 200]) == [100, 200]


def test_grey_strategies_are_told_apart_by_their_dashes() -> None:
    looks = style.looks({"main": 0.9} | {f"b{n}": n / 20 for n in range(6)})
    dashes = [look.dash for look in looks.values() if look.color == style.OTHERS]
    assert len({str(dash) for dash in dashes}) == len(dashes) == 5
    assert all(dash == "solid" or dash[1][0] > dash[1][1] for dash in dashes), "dots have no rounds"


def test_of_equal_scores_no_mark_hides_another(make: Callable[..., Any]) -> None:
    made = make(persons=3, strategies=4, unseen=0)
    for outcome in made.outcomes:
        outcome.confusion = made.outcomes[0].confusion
    with style.applied():
        (axes,) = persons.figure(made.outcomes).axes
    tip, *marks = axes.collections
    heights = [tuple(mark.get_offsets()[0]) for mark in marks]
    assert len(set(heights)) == len(marks) == 3
    assert all(mark.get_zorder() > tip.get_zorder() for mark in marks)


@pytest.mark.parametrize("baselines", [0, 4, 13])
def test_the_runs_strategy_stands_out_and_many_baselines_are_grey(baselines: int) -> None:
    results = {"main": 0.9} | {f"b{n}": n / 20 for n in range(baselines)}
    looks = style.looks(results)
    assert looks["main"].color == style.ACCENT
    grey = [name for name, look in looks.items() if look.color == style.OTHERS]
    assert len(grey) == (12 if baselines == 13 else 0)
    assert f"b{baselines - 1}" not in grey


def test_spread_moves_labels_apart_as_little_as_possible() -> None:
    np.testing.assert_allclose(style.spread([0.5, 0.1], 0.1, 0, 1), [0.5, 0.1])
    np.testing.assert_allclose(style.spread([0.5, 0.5], 0.1, 0, 1), [0.45, 0.55])
    np.testing.assert_allclose(style.spread([1.0, 1.0, 1.0], 0.1, 0, 1), [0.8, 0.9, 1.0])
    placed = style.spread(np.linspace(0.4, 0.5, 14), 0.06, 0.01, 0.99)
    assert np.diff(placed).min() >= 0.06 - 1e-9
    assert placed.min() >= 0.01


def test_long_names_are_cut_and_keep_what_tells_them_apart() -> None:
    assert style.shorten("x" * 20) == "x" * 20
    cut = style.shorten("participant_of_the_ulm_trial_007")
    assert cut == "participant_o…al_007"
    assert len(cut) == 20


@pytest.mark.parametrize("people", [3, 80])
def test_a_legend_of_long_names_stays_on_the_figure(people: int, make: Callable[..., Any]) -> None:
    made = make(persons=people, strategies=5)
    for number, outcome in enumerate(made.outcomes):
        outcome.strategy = f"a strategy of quite some name {number}"
    with style.applied():
        figure = persons.figure(made.outcomes)
        figure.draw_without_rendering()
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 5
    assert figure.bbox.x0 <= legend.get_window_extent().x0
    assert legend.get_window_extent().x1 <= figure.bbox.x1


@pytest.mark.parametrize("people", [3, 80])
def test_grey_strategies_share_one_entry_of_a_legend(people: int, make: Callable[..., Any]) -> None:
    with style.applied():
        (legend,) = persons.figure(make(persons=people, strategies=9).outcomes).legends
    _, best, others = [text.get_text() for text in legend.get_texts()]
    assert best.endswith("the best baseline")
    assert others == "the other 7"
