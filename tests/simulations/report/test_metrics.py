import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulations.report.metrics import accuracy, by_person, macro_f1, mean, total, worst_decile

labels = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(labels)
def test_scores_are_sklearns_over_the_classes_that_occur(pairs: list[tuple[int, int]]) -> None:
    from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

    true, predicted = zip(*pairs, strict=True)
    counts = confusion_matrix(true, predicted, labels=range(5))
    present = sorted(set(true))
    expected = f1_score(true, predicted, labels=present, average="macro", zero_division=0)
    assert macro_f1(counts) == pytest.approx(expected)
    assert accuracy(counts) == pytest.approx(accuracy_score(true, predicted))


def test_a_class_that_the_person_never_does_and_nobody_predicts_does_not_count() -> None:
    assert macro_f1(np.diag([5, 5, 0])) == 1.0


def test_an_absent_class_that_is_predicted_costs_the_true_class_its_recall_only() -> None:
    counts = np.array([[6, 0, 2], [0, 8, 0], [0, 0, 0]])
    assert macro_f1(counts) == pytest.approx((12 / 14 + 1) / 2)


def test_no_windows_have_no_score() -> None:
    for score in (macro_f1, accuracy):
        with pytest.raises(ValueError, match="without windows"):
            score(np.zeros((3, 3), dtype=np.int64))


@pytest.mark.parametrize(("persons", "worst"), [(1, 1), (10, 1), (11, 2), (34, 4), (40, 4)])
def test_the_worst_tenth_is_rounded_up_to_whole_persons(persons: int, worst: int) -> None:
    scores = [n / 100 for n in range(persons)]
    assert worst_decile(reversed(scores)) == pytest.approx(np.mean(scores[:worst]))


def test_means_need_a_score_and_forget_the_order() -> None:
    scores = [0.1, 0.2, 0.3, 1e-17]
    assert mean(scores) == mean(reversed(scores))
    with pytest.raises(ValueError, match="no mean"):
        mean([])
    with pytest.raises(ValueError, match="no worst tenth"):
        worst_decile([])


def test_persons_without_windows_have_no_score_and_add_nothing() -> None:
    counts = {"a": np.eye(2, dtype=np.int64), "b": np.zeros((2, 2), dtype=np.int64)}
    assert by_person(counts) == {"a": 1.0}
    assert total(counts, 2).tolist() == [[1, 0], [0, 1]]
    assert total({}, 2).tolist() == [[0, 0], [0, 0]]
