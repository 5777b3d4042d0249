"""``flwr-edge verify``, and what every command about bundles shares."""

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from client.commands.output import emit
from schemas.base import ConfigError

if TYPE_CHECKING:
    from client.bundle import Bundle

_KEY: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_LONGEST_KEY_FILE: Final = 1024

_DESCRIPTION: Final = """\
Check a bundle whole: signature, sizes, SHA-256 of every part, the graph's operators and what it
declares; then let it answer its reference input, and compare; where it says what memory and time it
takes, measure them too. Nothing is loaded before the checks.
Without --key it says who signed; whether that is your fleet was then not checked.
"""
_EPILOG: Final = """\
examples:
  flwr-edge verify ann.flwb
  flwr-edge verify ann.flwb --key /etc/flwr-edge/signing.pub
  flwr-edge verify ann.flwb --key 6e0c…64 digits… --base shared.flwb

exit codes: 0 good; 1 a good bundle that does not run here, or answers its reference input with
something else, or takes far more memory or time than it says; 2 refused: damaged, not signed by
the key, of another format, or not what it says.
"""


def register(nouns: Any) -> None:
    """Add the command."""
    command = nouns.add_parser(
        "verify",
        help="check a bundle and say what is in it",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    add_bundle(command)
    command.add_argument("--format", choices=("text", "json"), default="text", help="default: text")
    command.set_defaults(run=run)


def add_bundle(command: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Add the bundle, and what it is checked with."""
    command.add_argument(
        "bundle",
        type=Path,
        metavar="BUNDLE",
        nargs="?" if optional else None,
        help="a personal model, one file",
    )
    command.add_argument(
        "--key",
        metavar="HEX|FILE",
        help="the fleet's public key, 64 hexadecimal digits, or a file with them, as the fleet's "
        "signing.pub: what it did not sign is refused",
    )
    command.add_argument(
        "--base",
        type=Path,
        metavar="FILE",
        help="the shared bundle that this one is a difference from",
    )


def opened(arguments: argparse.Namespace) -> "Bundle":
    """Open the bundle that the command names."""
    key = None if arguments.key is None else fleet_key(arguments.key)
    return open_or_refuse(arguments.bundle, key, arguments.base)


def open_or_refuse(path: Path, key: str | None, base: Path | None) -> "Bundle":
    """Open a bundle.

    Raises
    ------
    ConfigError
        Where it is refused or cannot be read.
    """
    from client import bundle

    try:
        return bundle.open(path, key, base=base)
    except bundle.BundleError as error:
        where, _, problem = str(error).partition(": ")
        raise ConfigError(where, [problem]) from None
    except OSError as error:
        problem = error.strerror or str(error)
        raise ConfigError(str(error.filename or path), [problem]) from None


def fleet_key(text: str) -> str:
    """A public key as it is written, or as a file holds it."""
    if _KEY.fullmatch(text.lower()):
        return text.lower()
    try:
        with Path(text).open("rb") as file:
            found = file.read(_LONGEST_KEY_FILE).decode("utf-8-sig", "replace").strip().lower()
    except OSError as error:
        raise ConfigError(
            "--key", [f"{text[:80]!r}: neither 64 hexadecimal digits nor a file: {error.strerror}"]
        ) from None
    if not _KEY.fullmatch(found):
        raise ConfigError("--key", [f"{text}: holds no 64 hexadecimal digits"])
    return found


def run(arguments: argparse.Namespace) -> None:
    """Check, say what was found, and fail where it does not run here as it should."""
    bundle = opened(arguments)
    from client.bundle.predictor import NotRunnableError, Predictor

    error: float | None = None
    problem, wrong = "", []
    try:
        error = Predictor(bundle).reference_error()
        wrong = _lies(bundle)
        if error > 1:
            problem = f"{bundle.path}: its answer to the reference input is {error:.3g} tolerances"
            problem += f" off (tolerance {bundle.manifest.tolerance:g})"
        elif wrong:
            problem = f"{bundle.path}: {'; '.join(wrong)}"
    except NotRunnableError as failure:
        problem = str(failure)
    said = _json(bundle, error, wrong) if arguments.format == "json" else _text(bundle, error)
    emit(said, None)
    if problem:
        raise NotRunnableError(problem)


def _lies(bundle: "Bundle") -> list[str]:
    """What the manifest says of memory and latency and is not so here."""
    from client.bundle import claims

    said = bundle.manifest.expected
    if not claims.claimed(said):
        return []
    return claims.lies(said, claims.measured(bundle.manifest, bundle.model, bundle.reference[:1]))


def _json(bundle: "Bundle", error: float | None, wrong: list[str]) -> str:
    found = {
        "bundle": str(bundle.path),
        "sha256": bundle.sha256,
        "bytes": bundle.size,
        "trust": bundle.trust.name.lower(),
        "reference_error": error,
        "lies": wrong,
        "good": error is not None and error <= 1 and not wrong,
        "manifest": bundle.manifest.model_dump(mode="json"),
    }
    return json.dumps(found, indent=2) + "\n"


def _text(bundle: "Bundle", error: float | None) -> str:
    said, given = bundle.manifest, bundle.manifest.input
    where = "described" if given.normalisation else "in the graph"
    needs = [f"flwr-edge {said.runtime.flwr_edge}", f"onnxruntime {said.runtime.onnxruntime}"]
    parts = (f"{each.name} {each.bytes} ({each.coding} {each.stored})" for each in said.parts)
    rows = {
        "trust": bundle.trust.value,
        "name": said.name,
        "task": f"{said.task}: {', '.join(said.classes)}",
        "input": f"{given.time} samples x {given.channels} channels at {given.hz:g} Hz, "
        f"{given.dtype}, normalisation {where}",
        "weights": f"{said.bits} bits, form {said.form}",
        "model": f"{said.model.sha256}, {said.model.bytes} bytes, {bundle.checked.nodes} nodes",
        "backbone": said.backbone or "",
        "base": said.base or "",
        "expected": _expected(bundle),
        "needs": ", ".join([*needs, *said.runtime.ops]),
        "parts": ", ".join(parts),
        "file": f"{bundle.sha256}, {bundle.size} bytes",
        "reference": _reference(error),
    }
    return "".join(f"{key:<10} {value}\n" for key, value in rows.items() if value)


def _reference(error: float | None) -> str:
    if error is None:
        return "not answered"
    return f"{'agrees' if error <= 1 else 'differs'} ({error:.3g} x the tolerance)"


def _expected(bundle: "Bundle") -> str:
    said = bundle.manifest.expected
    memory = "" if said.memory_bytes is None else f"{said.memory_bytes / 2**20:.1f} MiB"
    latency = "" if said.latency_us is None else f"{said.latency_us:.1f} us a window"
    return ", ".join(part for part in (memory, latency, said.machine) if part)
