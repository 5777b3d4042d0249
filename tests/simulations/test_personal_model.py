"""A person's float model from a finished run: as the device predicted, for every strategy."""

import json
import shutil

import numpy as np
import onnxruntime as ort
import pytest

from schemas.base import ConfigError
from server.checkpoint import CheckpointError
from simulations.personal_model import open_models, personal_model
from simulations.report.files import RunError
from simulations.report.folder import RunFolder
from simulations.report.metrics import macro_f1

STRATEGIES = ("semipfl", "ditto", "fedper", "finetune", "pfedhn")


@pytest.fixture
def copied(finished_run, tmp_path):
    """A run folder that a test may spoil."""
    path = tmp_path / "copy"
    shutil.copytree(finished_run, path)
    return path


def logits_of(model, windows):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"windows": windows.astype(np.float32)})[0]


def confusion_in(folder, strategy, person):
    outcome = json.loads((folder / "checkpoint" / f"{strategy}.json").read_text())["outcome"]
    return np.array((outcome["confusion"] | outcome["unseen"])[person])


def _study(name):
    return pytest.param(name, marks=pytest.mark.study)


@pytest.mark.parametrize("strategy", [*STRATEGIES[:2], *map(_study, STRATEGIES[2:])])
def test_everyone_s_model_predicts_as_in_the_run(finished_run, strategy):
    with open_models(finished_run, strategy) as models:
        assert len(models.persons) == 4
        assert len(models.world.unseen) == 1
        for person in models.persons:
            personal = models.personal(person)
            expected = confusion_in(finished_run, strategy, person)
            windows = personal.windows
            found = np.zeros_like(expected)
            chosen = logits_of(personal.model, windows.test).argmax(1)
            np.add.at(found, (windows.test_labels, chosen), 1)
            np.testing.assert_array_equal(found, expected)
            assert personal.macro_f1 == macro_f1(expected)


def test_logits_equal_the_learner_s(finished_run):
    with open_models(finished_run) as models:
        for person in models.persons[-2:]:
            plan, learner, weights = models._personalised(models.node(person))
            x = learner.windows.test
            expected = learner.predict(plan, weights, x)
            found = logits_of(models.personal(person).model, x)
            np.testing.assert_allclose(found, expected, atol=1e-4)
            assert np.ptp(expected) > 0.1


def test_what_comes_with_a_model(finished_run):
    with open_models(finished_run) as models:
        name = models.persons[0]
        personal = models.personal(name)
        volunteers = sum(len(x) for x in models.world.federation.sources.x)
    assert (personal.person, personal.strategy, personal.hz) == (name, "semipfl", 10.0)
    assert personal.classes == models.world.recordings.classes
    assert personal.sources.shape == (volunteers, 20, 6)
    assert personal.sources.dtype == np.float32
    assert personal.windows.test.shape[1:] == (20, 6)
    shared = logits_of(personal.shared, personal.sources)
    assert shared.shape == (volunteers, 3)
    assert not np.allclose(shared, logits_of(personal.model, personal.sources), atol=1e-3)


def test_the_sources_are_moved_to_the_person_s_mean_and_deviation(finished_run):
    with open_models(finished_run) as models:
        personal, own = models.personal(models.persons[0]), models.sources
        counts = np.cumsum([len(x) for x in models.world.federation.sources.x])[:-1]
    train = personal.windows.train.astype(np.float64)
    assert not np.allclose(own.mean((0, 1)), train.mean((0, 1)), atol=0.1)
    for source in np.split(personal.sources, counts):
        np.testing.assert_allclose(source.mean((0, 1)), train.mean((0, 1)), atol=1e-4)
        np.testing.assert_allclose(source.std((0, 1)), train.std((0, 1)), rtol=1e-3)


def test_a_model_is_the_same_every_time_and_leaves_the_run_as_it_was(finished_run):
    before = {path: path.read_bytes() for path in finished_run.rglob("*") if path.is_file()}
    first = personal_model(finished_run, _someone(finished_run))
    again = personal_model(finished_run, first.person)
    assert first.model == again.model
    assert first.shared == again.shared
    after = {path: path.read_bytes() for path in finished_run.rglob("*") if path.is_file()}
    assert after == before


def _someone(folder):
    return RunFolder.open(folder).summary().persons[0]


def test_no_such_person_and_no_such_strategy_name_what_there_is(finished_run):
    with pytest.raises(ConfigError, match=r"no person 'Nobody'; there are person .*, person "):
        personal_model(finished_run, "Nobody")
    with pytest.raises(ConfigError, match=r"no strategy 'fedavg' ran here; there are semipfl, di"):
        personal_model(finished_run, "Nobody", "fedavg")


def test_no_run_and_an_unfinished_one(copied, tmp_path):
    with pytest.raises(RunError, match="no such folder"):
        personal_model(tmp_path / "none", "x")
    with pytest.raises(RunError, match=r"holds no config\.toml"):
        personal_model(tmp_path, "x")
    (copied / "summary.json").unlink()
    with pytest.raises(RunError, match="the run did not end; go on with it by --resume"):
        personal_model(copied, "x")


def test_a_run_whose_checkpoint_is_gone_damaged_or_early(copied):
    weights = copied / "checkpoint" / "semipfl.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        personal_model(copied, "x")
    weights.unlink()
    with pytest.raises(RunError, match="no checkpoint of semipfl: its models are gone"):
        personal_model(copied, "x")
    (copied / "checkpoint" / "ditto.json").write_text("[]")
    with pytest.raises(RunError, match=r"ditto\.json: not a readable outcome"):
        personal_model(copied, "x", "ditto")


def test_what_predicts_otherwise_than_the_run_is_refused(copied):
    person = _someone(copied)
    path = copied / "checkpoint" / "finetune.json"
    fields = json.loads(path.read_text())
    counts = fields["outcome"]["confusion"][person]
    counts[0] = counts[0][::-1]
    path.write_text(json.dumps(fields))
    with pytest.raises(RunError, match=rf"{person}: what is rebuilt has macro-F1 \d.*in the run"):
        personal_model(copied, person, "finetune")


def test_a_person_without_a_result_is_refused(copied):
    person = _someone(copied)
    path = copied / "checkpoint" / "finetune.json"
    fields = json.loads(path.read_text())
    del fields["outcome"]["confusion"][person]
    fields["outcome"]["failures"][person] = ["evaluation after round 0: no reply"]
    path.write_text(json.dumps(fields))
    with pytest.raises(RunError, match=rf"{person} has no result in this run: eval.* no reply"):
        personal_model(copied, person, "finetune")
