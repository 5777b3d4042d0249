"""``report.html``: one file that asks the network for nothing."""

import platform
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from importlib.metadata import version
from importlib.resources import files

import tomli_w
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from edge_kernels.bench.machine import cpu
from schemas.release import release
from schemas.simulation import Simulation
from schemas.summary import MethodSummary, Summary
from server.strategies.installed import about, strategies
from simulations.report import people
from simulations.report.days import between
from simulations.report.plots import Plot
from simulations.report.units import human_bytes, human_seconds

_score = "{:.3f}".format
Failure = tuple[str, str, list[tuple[str, int]]]


def render(folder: str, config: Simulation, summary: Summary, plots: Mapping[str, Plot]) -> str:
    """Return the report's page.

    Parameters
    ----------
    folder : str
        Name of the run's folder.
    config : Simulation
        As resolved.
    summary : Summary
        The run's figures.
    plots : Mapping[str, Plot]
        Of ``plots.draw``. Their SVG is matplotlib's, which escapes the names in it; all other
        text is escaped here.
    """
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    page.filters.update(bytes=human_bytes, seconds=human_seconds, score=_score)
    page.filters["unbroken"] = _unbroken
    page.globals.update(as_bytes=human_bytes, as_seconds=human_seconds, as_score=_score)
    best = best_baseline(summary)
    template = page.from_string(
        files("simulations.report").joinpath("template.html").read_text(encoding="utf-8")
    )
    return template.render(
        run=summary,
        folder=folder,
        config=tomli_w.dumps(config.model_dump(exclude_none=True)),
        people=people,
        between=between,
        methods=[summary, *summary.baselines],
        timed=[method for method in (summary, *summary.baselines) if _timed(method)],
        best=best,
        gain=gain(summary, best) if best else 0.0,
        failures=failures(summary),
        plots=[(name, plot, Markup(plot.svg)) for name, plot in plots.items()],  # noqa: S704
        command=f"flwr-sim run {shlex.quote(folder)}/config.toml",
        abouts=_abouts([summary.strategy, *(one.strategy for one in summary.baselines)]),
        made_by=_made_by(),
    )


def best_baseline(summary: Summary) -> MethodSummary | None:
    """Return the baseline with the highest mean, if there are any."""
    return max(summary.baselines, key=lambda method: method.macro_f1.mean, default=None)


def gain(one: MethodSummary, other: MethodSummary) -> float:
    """Difference of two means as they are shown: a reader may subtract them."""
    return round(one.macro_f1.mean, 3) - round(other.macro_f1.mean, 3)


def failures(summary: Summary) -> list[Failure]:
    """List person, strategy, and each reason with how often it was given."""
    return [
        (person, method.strategy, Counter(reasons).most_common())
        for method in (summary, *summary.baselines)
        for person, reasons in sorted(method.failures.items())
    ]


def _unbroken(text: str) -> str:
    """Keep a range of days on one line, in however narrow a column."""
    joiner = "\N{WORD JOINER}"
    return text.replace("–", f"{joiner}–{joiner}")


def _abouts(names: Iterable[str]) -> dict[str, str]:
    """What each strategy is, in a line; of one that is installed no more, nothing is known."""
    known = strategies()
    return {name: about(known[name]).replace("``", "") for name in names if name in known}


def _timed(method: MethodSummary) -> bool:
    """Whether there is something to say of deadlines or staleness."""
    timely = method.simulated_seconds is None and method.staleness is None
    return not timely or bool(method.late or method.skipped_rounds)


def _made_by() -> str:
    of = release()
    name = f"flwr-edge {of}" if of else "flwr-edge, not installed"
    parts = [name, *(f"{package} {version(package)}" for package in ("torch", "onnxruntime"))]
    parts += [f"Python {platform.python_version()}", f"{cpu()}, {platform.machine()}"]
    return " · ".join([*parts, f"{datetime.now().astimezone():%Y-%m-%d %H:%M}"])
