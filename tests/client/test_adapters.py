"""What a device keeps of adapters: which one it chooses, what it refuses, what lies on the disk."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from client.adapters import AdapterError, KeptAdapters
from schemas.distance import distance

BACKBONE, OTHER = "ab" * 32, "cd" * 32
NEAR = 0.3
NOISE = np.random.default_rng(0)
STATES = {state: np.random.default_rng(state).standard_normal((4, 6)) for state in range(20)}


def condition(state, noise=0.02):
    """A day's: states are about 1.4 apart, two days of one about .03."""
    moved = NOISE.standard_normal((4, 6)) * noise
    return (STATES[state] + moved).astype(np.float32)


def adapter(state):
    return np.full(5, state, np.float32)


def live(kept, states, threshold=NEAR):
    """A device's days: what it chooses, and the adapter that it then has."""
    choices, used = [], []
    for state in states:
        chosen = kept.choose(condition(state), threshold).choice
        if chosen == "ask":
            kept.take(adapter(state))
        choices.append(chosen)
        used.append(int(kept.present[0]))
    return choices, used


@pytest.fixture
def kept(tmp_path):
    return lambda backbone=BACKBONE, most=3: KeptAdapters(tmp_path / "adapters", backbone, most)


def test_an_adapter_comes_back_when_its_condition_does(kept):
    choices, used = live(kept(), [0, 0, 1, 1, 0, 2, 1])
    assert choices == ["ask", "keep", "ask", "keep", "back", "ask", "back"]
    assert used == [0, 0, 1, 1, 0, 2, 1]


def test_it_comes_back_bit_for_bit_from_the_disk(kept):
    rng = np.random.default_rng(0)
    made = rng.standard_normal((2, 50)).astype(np.float32)
    for state in (0, 1):
        assert kept().choose(condition(state), NEAR).choice == "ask"
        kept().take(made[state])
    assert kept().choose(condition(0), NEAR).choice == "back"
    np.testing.assert_array_equal(kept().present, made[0])


def test_always_and_never(kept):
    assert live(kept(), [0, 0, 1], 0.0)[0] == ["ask"] * 3
    never = KeptAdapters(None, BACKBONE)
    assert live(never, [0, 0, 1, 2], None) == (["ask", "keep", "keep", "keep"], [0] * 4)


@given(st.lists(st.integers(0, 19), max_size=25), st.integers(1, 4))
def test_at_most_so_many_are_kept_and_the_one_unused_for_longest_goes(states, most):
    kept, expected = KeptAdapters(None, BACKBONE, most), list[int]()
    for state in states:
        (choice,), used = live(kept, [state])
        assert (choice == "ask") == (state not in expected)
        assert used == [state]
        expected = [*(s for s in expected if s != state), state][-most:]
        assert len(kept) == len(expected) <= most


@given(st.permutations(range(12)))
def test_the_order_of_windows_changes_no_choice(order):
    windows = np.random.default_rng(1).standard_normal((12, 4, 6)).astype(np.float32)
    one, other = windows.mean(0), windows[order].mean(0)
    kept = KeptAdapters(None, BACKBONE)
    kept.choose(one, NEAR)
    kept.take(adapter(0))
    assert kept.choose(other, NEAR).choice == "keep"
    assert distance(one, other) < 1e-5


def test_until_the_answer_comes_the_present_one_serves(kept):
    live(kept(), [0])
    assert kept().choose(condition(1), NEAR).choice == "ask"
    assert kept().present[0] == 0
    assert kept().choose(condition(0), NEAR).choice == "keep"


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (np.full((4, 6), np.nan), "finite"),
        (np.full((4, 6), np.inf), "finite"),
        (np.zeros((4, 5)), r"\[4, 5\]; those kept are \[4, 6\]"),
        (np.zeros(24), "tokens × channels"),
        (np.zeros((0, 6)), "tokens × channels"),
    ],
)
def test_a_wrong_condition_is_refused_and_nothing_is_written(kept, tmp_path, told, reason):
    live(kept(), [0])
    before = (tmp_path / "adapters" / "adapters.safetensors").read_bytes()
    with pytest.raises(AdapterError, match=reason):
        kept().choose(told.astype(np.float32), NEAR)
    assert (tmp_path / "adapters" / "adapters.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (np.full(5, np.nan, np.float32), "finite float32"),
        (np.zeros(5), "finite float32"),
        (np.zeros((5, 1), np.float32), "finite float32"),
        (np.zeros(6, np.float32), "6 numbers; those kept, 5"),
    ],
)
def test_a_wrong_adapter_is_refused_and_still_asked_for(kept, made, reason):
    live(kept(), [0])
    kept().choose(condition(1), NEAR)
    with pytest.raises(AdapterError, match=reason):
        kept().take(made)
    kept().take(adapter(1))
    assert kept().present[0] == 1


def test_what_was_not_asked_for_is_refused_and_a_task_done_twice_is_not(kept):
    with pytest.raises(AdapterError, match="did not ask for"):
        kept().take(adapter(0))
    live(kept(), [0])
    kept().take(adapter(0))
    with pytest.raises(AdapterError, match="did not ask for"):
        kept().take(adapter(1))
    assert len(kept()) == 1


def test_adapters_of_another_backbone_are_never_used(kept):
    live(kept(), [0, 1])
    after = kept(OTHER)
    assert "of backbone abababababab; dropped" in after.dropped
    with pytest.raises(AdapterError, match=r"no adapter of backbone cdcd.*abababababab"):
        after.present  # noqa: B018
    assert live(after, [0])[0] == ["ask"]
    assert kept().dropped, "the old ones are gone for good"
    assert not len(kept())


def test_what_is_carried_outlives_every_choice_but_a_new_life(kept):
    assert kept().carried(3) is None
    live(kept(), [0, 1])
    kept().carry(np.array([1, 2, 3]))
    live(kept(), [2, 0, 1, 3])
    np.testing.assert_array_equal(kept().carried(3), np.array([1, 2, 3], np.float32))
    with pytest.raises(AdapterError, match="3 numbers are carried here; 4 are asked"):
        kept().carried(4)
    assert kept(backbone=OTHER).carried(3) is None
    kept().forget()
    assert kept().carried(3) is None


def damaged(path, kind):
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-7])
        return
    arrays = load_file(path)
    if kind == "carried nan":
        arrays["carried"] = np.array([0, np.nan], np.float32)
    if kind == "carried wide":
        arrays["carried"] = np.zeros(2)
    if kind == "nan":
        arrays["adapters"][0, 0] = np.nan
    elif kind == "one missing":
        arrays["conditions"] = arrays["conditions"][:1]
    elif kind == "no conditions":
        del arrays["conditions"]
    elif kind == "wide":
        arrays["adapters"] = arrays["adapters"].astype(np.float64)
    save_file(arrays, path, {"backbone": BACKBONE})


@pytest.mark.parametrize(
    "kind",
    ["cut", "nan", "one missing", "no conditions", "wide", "carried nan", "carried wide"],
)
def test_a_damaged_file_is_dropped_with_the_reason(kept, tmp_path, kind):
    live(kept(), [0, 1])
    damaged(tmp_path / "adapters" / "adapters.safetensors", kind)
    after = kept()
    assert after.dropped.endswith("; dropped")
    assert live(after, [0, 1])[0] == ["ask", "ask"]


def test_a_full_disk_leaves_what_was_there(kept, tmp_path, monkeypatch):
    live(kept(), [0])
    one = kept()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        one.choose(condition(1), NEAR)
    monkeypatch.undo()
    with pytest.raises(AdapterError, match="did not ask"):
        one.take(adapter(1))
    assert [path.name for path in (tmp_path / "adapters").iterdir()] == ["adapters.safetensors"]
    assert kept().choose(condition(0), NEAR).choice == "keep"


def test_fewer_than_one_cannot_be_kept():
    with pytest.raises(AdapterError, match="at least 1"):
        KeptAdapters(None, BACKBONE, 0)
