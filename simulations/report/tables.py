"""A run as columns: what ``rounds.parquet``, ``persons.parquet`` and ``confusion.npz`` hold."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from server.outcome import Outcome, macro_f1
from simulations.report.metrics import accuracy, total

ROUNDS = pa.schema(
    [
        ("strategy", pa.string()),
        ("round", pa.int64()),
        ("cohort", pa.int64()),
        ("loss", pa.float64()),
        ("failures", pa.int64()),
        ("bytes_down", pa.int64()),
        ("bytes_up", pa.int64()),
        ("seconds", pa.float64()),
        ("macro_f1", pa.float64()),
        ("late", pa.int64()),
        ("applied", pa.bool_()),
        ("staleness", pa.list_(pa.int64())),
    ]
)
PERSONS = pa.schema(
    [
        ("strategy", pa.string()),
        ("person", pa.string()),
        ("unseen", pa.bool_()),
        ("macro_f1", pa.float64()),
        ("accuracy", pa.float64()),
        ("windows", pa.int64()),
    ]
)

SWEEP_PERSONS = pa.schema(
    [
        ("method", pa.string()),
        ("label_fraction", pa.float64()),
        ("seed", pa.int64()),
        *PERSONS,
    ]
)


def rounds_parquet(outcomes: Sequence[Outcome]) -> bytes:
    """One row a strategy and round; ``macro_f1`` is null where the round was not evaluated."""
    rows = [
        {"strategy": outcome.strategy, **asdict(record)}
        for outcome in outcomes
        for record in outcome.rounds
    ]
    return parquet(rows, ROUNDS)


def persons_parquet(outcomes: Sequence[Outcome]) -> bytes:
    """One row a strategy and person; both scores are null where there is no tested window."""
    return parquet([row for outcome in outcomes for row in person_rows(outcome)], PERSONS)


def confusion_npz(outcomes: Sequence[Outcome], classes: Sequence[str]) -> bytes:
    """Return the counts, summed over persons and by person.

    Arrays: ``strategies`` (S), ``classes`` (C), and ``confusion`` and ``unseen`` (S, C, C), counts
    with true classes as rows; ``persons`` (P), the unseen ones last, and ``by_person``
    (S, P, C, C), zeros where a strategy has no result of one.
    """
    persons = _persons(outcomes)
    counts = np.zeros((len(outcomes), len(persons), len(classes), len(classes)), np.int64)
    for row, outcome in zip(counts, outcomes, strict=True):
        for name, own in (outcome.confusion | outcome.unseen).items():
            row[persons.index(name)] = own
    file = io.BytesIO()
    np.savez_compressed(
        file,
        strategies=np.array([outcome.strategy for outcome in outcomes]),
        classes=np.array(classes),
        confusion=np.stack([total(outcome.confusion, len(classes)) for outcome in outcomes]),
        unseen=np.stack([total(outcome.unseen, len(classes)) for outcome in outcomes]),
        persons=np.array(persons, np.str_),
        by_person=counts,
    )
    return file.getvalue()


def _persons(outcomes: Sequence[Outcome]) -> list[str]:
    seen = [name for outcome in outcomes for name in outcome.confusion]
    return list(dict.fromkeys([*seen, *(name for outcome in outcomes for name in outcome.unseen)]))


def person_rows(outcome: Outcome) -> Iterator[dict[str, Any]]:
    """A strategy's rows of ``PERSONS``."""
    for unseen, confusions in ((False, outcome.confusion), (True, outcome.unseen)):
        for person, counts in confusions.items():
            tested = bool(counts.any())
            yield {
                "strategy": outcome.strategy,
                "person": person,
                "unseen": unseen,
                "macro_f1": macro_f1(counts) if tested else None,
                "accuracy": accuracy(counts) if tested else None,
                "windows": int(counts.sum()),
            }


def parquet(rows: list[dict[str, Any]], schema: pa.Schema) -> bytes:
    """A Parquet file's bytes."""
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), file)
    return file.getvalue()
