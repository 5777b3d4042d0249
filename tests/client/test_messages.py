"""The border between the daemon and the process that learns: all or one clear line."""

import json

import pytest

from client.messages import (
    Candidate,
    Do,
    Done,
    Failed,
    MessageError,
    Ordered,
    Predict,
    Predicted,
    Prove,
    Proved,
    Served,
    Settings,
    Sound,
    Timed,
    read_answer,
    read_request,
    read_settings,
    write_answer,
    write_request,
    write_settings,
)
from schemas.rollout import BundleOrder
from schemas.wire import ObjectRef

REF = ObjectRef(sha256="ab" * 32, bytes=3)
ORDER = BundleOrder(bundle="cd" * 32, seconds=1.5)
SERVED = Served("cd" * 32, "/b.flwb", None)

REQUESTS = [
    Do("train", "ab" * 32, None),
    Do("bundle.back", "ab" * 32, "cd" * 32),
    Prove("ab" * 32, Candidate("/b.flwb", "/a.flwb", 1e9, None)),
    Predict("ab" * 32, None),
    Predict(None, [[1.0, -2.5]], SERVED),
    Predict(None, None, SERVED, reference=True),
]
ANSWERS = [
    Done(REF, (REF, REF), None),
    Done(REF, (), "", "ab" * 32),
    Ordered(REF, ORDER),
    Proved(REF, ORDER, None, "ab" * 32, 2e6),
    Predicted(1, (0.25, 0.75)),
    Predicted(0, (1.0,), "walk", "ab" * 32, 1796066656.25),
    Timed(0, (1.0,), "walk", microseconds=12.5),
    Sound(),
    Failed("out of memory"),
    Failed("NotRunnableError: NaN", fault=True),
]


SETTINGS = Settings("o", "g", "a", 1 << 20, "w", True, 7, None, "/b.flwb", None)


def travelled(said):
    return json.loads(json.dumps(said))


def test_settings_come_as_they_went():
    said = travelled(write_settings(SETTINGS))
    assert read_settings(said) == SETTINGS
    del said["rings"]
    with pytest.raises(MessageError, match="settings: rings: missing"):
        read_settings({**said, "number": "7"})


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_request_comes_as_it_went(request_):
    said = travelled(write_request(request_))
    assert said["action"] == request_.action
    assert read_request(said) == request_


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_comes_as_it_went(answer):
    kind = Done if isinstance(answer, Failed) else type(answer)
    assert read_answer(kind, travelled(write_answer(answer))) == answer


def test_a_prediction_is_written_as_programs_here_read_it():
    assert travelled(write_answer(ANSWERS[4])) == {"class": 1, "scores": [0.25, 0.75]}
    assert list(write_answer(ANSWERS[6])) == ["class", "scores", "name", "microseconds"]


@pytest.mark.parametrize("window", [7, "x", [1.0], [["1"]], [[None]]])
def test_a_window_is_its_models_to_judge(window):
    assert read_request(travelled(write_request(Predict(None, window)))).window == window


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ([], "request: input should be a dictionary"),
        ({}, "action: missing"),
        (
            {"action": 7, "payload": "ab", "kept": None},
            "action = 7: input should be a valid string",
        ),
        ({"action": ["train"], "payload": "ab", "kept": None}, "action = ['train']"),
        ({"action": "train", "payload": "ab"}, "kept: missing"),
        ({"action": "train", "payload": "ab", "kept": None, "x": 1}, "x = 1: unexpected"),
        ({"action": "bundle", "payload": "ab"}, "request 'bundle': bundle: missing"),
        ({"action": "predict", "model": None}, "request 'predict': window: missing"),
        (
            {"action": "predict", "model": None, "window": None, "reference": 1},
            "reference = 1: input should be a valid boolean",
        ),
    ],
)
def test_a_request_that_does_not_fit_is_one_line(said, problem):
    with pytest.raises(MessageError) as caught:
        read_request(said)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


PAYLOAD = {"sha256": "ab" * 32, "bytes": 3}


@pytest.mark.parametrize(
    ("kind", "said", "problem"),
    [
        (Done, None, "answer Done: input should be a dictionary"),
        (Done, {"payload": PAYLOAD, "kept": None}, "objects: missing"),
        (Done, {"payload": PAYLOAD, "objects": []}, "kept: missing"),
        (Done, {"payload": {**PAYLOAD, "bytes": "3"}, "objects": [], "kept": None}, "bytes = '3'"),
        (Done, {"payload": PAYLOAD, "objects": [], "kept": 3}, "kept = 3"),
        (Ordered, {"payload": PAYLOAD, "order": {}}, "order.bundle: missing"),
        (Predicted, {"class": True, "scores": []}, "class = True"),
        (Predicted, {"class": 1, "scores": ["1"]}, "scores.0 = '1'"),
        (Timed, {"class": 1, "scores": [1.0]}, "microseconds: missing"),
        (Sound, {"fault": True}, "fault = True: unexpected"),
        (Done, {"error": 7}, "answer: error = 7"),
        (Done, {"error": "x", "fault": "no"}, "fault = 'no'"),
    ],
)
def test_an_answer_that_does_not_fit_is_one_line(kind, said, problem):
    with pytest.raises(MessageError) as caught:
        read_answer(kind, said)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)
