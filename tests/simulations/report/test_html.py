import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from edge_kernels.bench.machine import cpu
from simulations.report import RunFolder, html, plots, summarise

EVIL = ("<script>alert(1)</script>", "$x_{", '"><img src=x onerror=alert(2)>', "走る", "--><b>")


class Tags(HTMLParser):
    """Tags, and all attributes that could load something."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        loading = ("src", "href", "xlink:href", "data", "action", "srcset")
        self.links += [value or "" for name, value in attrs if name in loading]


def parsed(page: str) -> Tags:
    tags = Tags()
    tags.feed(page)
    return tags


@pytest.fixture(scope="module")
def page(written: RunFolder) -> str:
    return (written.path / "report.html").read_text()


def test_it_asks_the_network_for_nothing(page: str) -> None:
    assert all(link.startswith("#") for link in parsed(page).links)
    assert not re.search(r"@import|url\((?!#)", page)
    assert "default-src 'none'" in page


def test_it_shows_figures_failures_notes_and_how_to_run_it_again(page: str, small: Any) -> None:
    assert f"{small.summary.macro_f1.mean:.3f}" in page
    assert parsed(page).tags.count("svg") == 4
    assert "round 3: no answer within 60 s" in page
    assert small.summary.notes[0] in page
    assert "flwr-sim run one/config.toml" in page
    assert "[strategies.semipfl]" in page


def test_what_a_device_learns_when_it_is_judged_is_timed(make: Callable[..., Any]) -> None:
    made = make(persons=2, strategies=4)  # the last one is local
    made.outcomes[3].evaluations, made.outcomes[3].evaluation_seconds = 2, 3.0
    summary = summarise(made.config, "x", made.classes, [], made.outcomes)
    page = html.render("x", made.config, summary, {})
    (row,) = [row for row in page.split("<tr") if ">local<" in row]
    assert '<td data-value="1.5">1.5 s</td>' in row
    assert row.count("<td>–</td>") == 1, "no round's training: no value to sort by"
    row = next(row for row in page.split("<tr") if ">semipfl<" in row)
    assert row.count("<td>–</td>") == 1
    assert "Own model" not in page
    alone = summary.model_copy(update={"client_updates": 0, "evaluation_seconds": 1.5})
    assert "Own model" in html.render("x", made.config, alone, {})


def test_the_page_says_what_its_words_mean(small: Any) -> None:
    page = html.render("x", small.config, small.summary, {})
    words = page.partition("What the words mean")[2].partition("</details>")[0]
    for word in ("macro-F1", "worst tenth", "never seen", "bytes", "sources"):
        assert f"<dt>{word}</dt><dd>" in words
    assert "<dt>fedavg</dt><dd>Average the cohort&#39;s models" in words
    assert "source-adabn" not in words, "installed no more"
    assert "``" not in words


def test_the_page_says_with_what_and_when_it_was_made(page: str) -> None:
    (made,) = re.findall(r"torch \d\S+ · onnxruntime \d.*", page)
    assert re.search(r" · \d{4}-\d\d-\d\d \d\d:\d\d</p>", made)
    assert cpu() in made


def test_bytes_are_said_to_be_without_graphs(small: Any) -> None:
    page = html.render("x", small.config, small.summary, plots.draw(small.summary, small.outcomes))
    assert "arrays and texts, not the graphs" in page
    assert "graphs are not counted" in page


def test_tables_can_be_read_and_scrolled_without_a_mouse(page: str) -> None:
    assert "<th>" not in page
    assert page.count('<th scope="col">') >= 10
    assert '<div class="scroll">' not in page
    assert page.count('class="scroll" tabindex="0" role="region" aria-label="') >= 6
    assert ".plots svg { min-width: 480px; }" in page, "figures scroll on a telephone"
    assert 'content: "\\a0↕"' in page, "a heading that sorts looks like one"


def test_whatever_users_wrote_is_text(make: Callable[..., Any]) -> None:
    made = make(persons=3, classes=EVIL, strategies=2, unseen=0, rounds=2)
    for outcome in made.outcomes:
        counts = list(outcome.confusion.values())
        outcome.confusion = dict(zip(EVIL, counts, strict=False))
        outcome.failures = {EVIL[0]: [EVIL[2]]}
    summary = summarise(made.config, EVIL[0], EVIL, EVIL, made.outcomes)
    page = html.render("x", made.config, summary, plots.draw(summary, made.outcomes))
    tags = parsed(page).tags
    assert tags.count("script") == 1
    assert "img" not in tags
    assert "b" not in tags
    assert "alert(1)" in page


def test_a_reader_may_subtract_what_is_shown(small: Any) -> None:
    def scored(mean: float) -> Any:
        score = small.summary.macro_f1.model_copy(update={"mean": mean})
        return small.summary.baselines[0].model_copy(update={"macro_f1": score})

    best = scored(0.96549)
    run = small.summary.model_copy(
        update={"macro_f1": scored(0.93351).macro_f1, "baselines": [best]}
    )
    page = html.render("x", small.config, run, {})
    assert '<div class="value">0.934</div>' in page
    assert "−0.031 against source-adabn" in page
    assert html.gain(scored(0.93349), scored(0.93301)) == 0


def test_failures_are_counted_by_reason(small: Any) -> None:
    method = small.summary.model_copy(update={"failures": {"p": ["slow", "slow", "NaN"]}})
    assert html.failures(method) == [("p", "semipfl", [("slow", 2), ("NaN", 1)])]


def test_a_run_without_baselines_failures_or_rounds_has_a_report(
    make: Callable[..., Any],
) -> None:
    made = make(persons=1, strategies=1, unseen=0)
    made.outcomes[0].rounds, made.outcomes[0].failures = [], {}
    summary = summarise(made.config, "one", made.classes, [], made.outcomes)
    page = html.render("x", made.config, summary, plots.draw(summary, made.outcomes))
    assert "every client that was asked answered" in page
    assert parsed(page).tags.count("svg") == 2


def test_no_speed_is_told_of_what_was_not_trained(small: Any) -> None:
    summary = small.summary.model_copy(update={"client_updates": 0})
    for shown, trained in ((small.summary, True), (summary, False)):
        page = html.render("x", small.config, shown, {})
        assert ("Client updates" in page) is trained
        assert ("without a round of training" in page) is not trained


@pytest.mark.parametrize("unseen", [True, False])
def test_a_baseline_that_failed_has_as_many_cells_as_the_table(small: Any, unseen: bool) -> None:
    persons = small.summary.unseen_persons if unseen else []
    summary = small.summary.model_copy(update={"failed": ["fedadam"], "unseen_persons": persons})
    table = html.render("one", small.config, summary, {}).partition('id="methods"')[2]
    rows = table.partition("</table>")[0].split("<tr")
    (failed,) = [row for row in rows if "fedadam" in row]
    assert failed.count("<td") == rows[1].count("<th ")
