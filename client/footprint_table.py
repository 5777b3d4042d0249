"""A footprint as text."""

from typing import Final

from schemas.bench import FootprintReport, Memory

_MIB: Final = 2**20
_MB: Final = 10**6
_SHOWN: Final = 6  # distributions by name


def rendered(report: FootprintReport, style: str) -> str:
    """Return the report as ``table`` or ``json``, ending in a newline."""
    if style == "json":
        return report.model_dump_json(indent=2) + "\n"
    targets = report.targets
    connected, most = report.seconds_to_connect, targets.seconds_to_connect
    installed = sum(report.installed.values()) / _MB
    rows = [
        ("start to connected", f"{connected:.2f} s", "", f"{most:g} s"),
        ("connected and idle", *_memory(report.idle), f"{targets.idle_rss // _MIB} MiB"),
        ("learning, peak", *_memory(report.learning), f"{targets.learning_rss // _MIB} MiB"),
        ("idle after learning", *_memory(report.afterwards), ""),
        ("installed", f"{installed:.0f} MB", "", f"{targets.installed // _MB} MB"),
    ]
    lines = [f"{'':<22}{'RSS':>10}{'PSS':>10}{'at most':>10}"]
    lines += [f"{name:<22}{rss:>10}{pss:>10}{limit:>10}".rstrip() for name, rss, pss, limit in rows]
    largest = list(report.installed.items())[:_SHOWN]
    sizes = ", ".join(f"{name} {size / _MB:.1f}" for name, size in largest)
    machine, versions = report.machine, report.versions
    lines += [
        "",
        f"installed, MB: {sizes}; {len(report.installed)} distributions in all",
        f"learned: {report.plan}; longest task {report.task_seconds:.2f} s",
        f"{machine.cpu}, {machine.cores} cores; flwr-edge {versions.flwr_edge}, "
        f"onnxruntime {versions.onnxruntime}, Python {versions.python}",
    ]
    return "\n".join(lines) + "\n"


def _memory(memory: Memory) -> tuple[str, str]:
    return f"{memory.rss / _MIB:.1f} MiB", f"{memory.pss / _MIB:.1f} MiB"
