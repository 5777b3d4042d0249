"""From what each strategy came to, to ``summary.json``."""

from collections.abc import Iterable, Mapping, Sequence

from schemas.simulation import Simulation
from schemas.summary import Bytes, MacroF1, MethodSummary, Staleness, Summary
from server.outcome import Outcome
from simulations.report.days import Lives, ranges
from simulations.report.files import RunError
from simulations.report.metrics import by_person, mean, worst_decile


def summarise(
    config: Simulation,
    dataset: str,
    classes: Sequence[str],
    notes: Sequence[str],
    outcomes: Sequence[Outcome],
    lives: Lives | None = None,
) -> Summary:
    """Sum up a run.

    A person of whom a strategy has no tested window (the device failed at the end) counts in none
    of that strategy's means, and a note says so. A baseline without any tested person has no
    figures: it is named among those that failed, with a note.

    Parameters
    ----------
    config : Simulation
        The resolved simulation file.
    dataset : str
        Name of the recordings, for readers.
    classes : Sequence[str]
        In the order of the confusion matrices.
    notes : Sequence[str]
        What a reader must know; notes on missing results are added to them.
    outcomes : Sequence[Outcome]
        The main strategy's, then the baselines'.
    lives : dict[str, tuple[str, int]], optional
        By person, whose device that is and on which day.

    Raises
    ------
    RunError
        Where the main strategy has no tested person.
    """
    main, baselines = outcomes[0], outcomes[1:]
    if not by_person(main.confusion):
        raise RunError(f"{main.strategy}: no person was tested, so that there is nothing to report")
    unseen = _names(outcome.unseen for outcome in outcomes)
    persons = _names(outcome.confusion for outcome in outcomes)
    persons += [
        name for name in _names(o.failures for o in outcomes) if name not in unseen + persons
    ]
    return Summary(
        **dict(summarise_method(main, lives)),
        name=config.name,
        dataset=dataset,
        seed=config.seed,
        label_fraction=config.data.label_fraction,
        persons=persons,
        unseen_persons=unseen,
        classes=list(classes),
        lives=dict(lives or {}),
        baselines=[summarise_method(one, lives) for one in baselines if by_person(one.confusion)],
        failed=[one.strategy for one in baselines if not by_person(one.confusion)],
        notes=[*notes, *_gaps(outcomes, persons, unseen)],
    )


def summarise_method(outcome: Outcome, lives: Lives | None = None) -> MethodSummary:
    """Sum up one strategy; at least one person was tested."""
    clients, unseen = by_person(outcome.confusion), by_person(outcome.unseen)
    updates = outcome.client_updates
    return MethodSummary(
        strategy=outcome.strategy,
        rounds=max((record.round for record in outcome.rounds), default=0),
        macro_f1=MacroF1(
            mean=mean(clients.values()),
            worst_decile=worst_decile(clients.values()),
            unseen=mean(unseen.values()) if unseen else None,
        ),
        client_updates=updates,
        failures=outcome.failures,
        late=outcome.late,
        dropped=outcome.dropped,
        skipped_rounds=sum(not record.applied for record in outcome.rounds),
        staleness=staleness_of(outcome),
        simulated_seconds=outcome.simulated_seconds,
        wall_seconds=outcome.wall_seconds,
        client_updates_per_second=updates / outcome.wall_seconds if outcome.wall_seconds else 0.0,
        bytes_per_participation=bytes_per_participation(outcome),
        bytes_graphs=outcome.bytes_graphs,
        device_seconds=outcome.device_seconds / updates if updates else 0.0,
        evaluation_seconds=_mean(outcome.evaluation_seconds, outcome.evaluations),
        days=ranges(outcome, lives or {}),
    )


def staleness_of(outcome: Outcome) -> Staleness | None:
    """Mean and most of all updates; none where rounds were synchronous."""
    steps = [age for record in outcome.rounds for age in record.staleness]
    return Staleness(mean=sum(steps) / len(steps), max=max(steps)) if steps else None


def bytes_per_participation(outcome: Outcome) -> Bytes:
    """Everything that was moved, shared among the participations.

    A participation is one finished training; what failed clients and evaluations moved is shared
    among them too, so that nothing is hidden. A strategy without trainings (the source model,
    AdaBN) sends each person the weights to be tested with: there, that is the participation.
    """
    tested = len(by_person(outcome.confusion)) + len(by_person(outcome.unseen))
    participations = outcome.client_updates or tested
    if not participations:
        return Bytes(down=0.0, up=0.0)
    return Bytes(
        down=outcome.bytes_down / participations,
        up=outcome.bytes_up / participations,
    )


def _mean(total: float, count: int) -> float | None:
    return total / count if count else None


def _names(groups: Iterable[Mapping[str, object]]) -> list[str]:
    return list(dict.fromkeys(name for group in groups for name in group))


def _gaps(outcomes: Sequence[Outcome], persons: list[str], unseen: list[str]) -> list[str]:
    notes = []
    for outcome in outcomes:
        clients = by_person(outcome.confusion)
        strangers = by_person(outcome.unseen)
        missing = [name for name in persons if name not in clients]
        if outcome.unseen:
            missing += [name for name in unseen if name not in strangers]
        if not clients:
            notes.append(f"{outcome.strategy}: no person was tested; its row has no figures.")
        elif missing:
            notes.append(
                f"{outcome.strategy}: without a result, and so in none of its means: "
                f"{', '.join(missing)}."
            )
        records = [record for record in outcome.rounds if record.round]
        if idle := sum(not record.applied for record in records):
            notes.append(
                f"{outcome.strategy}: nothing was learned in {idle} of {len(records)} rounds."
            )
    return notes
