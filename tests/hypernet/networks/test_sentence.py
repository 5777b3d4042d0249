"""The sentence encoder from files: a small one written here; MiniLM's own in the study."""

import json

import pytest
import torch
from safetensors.torch import save_file

from hypernet.networks.sentence import load_sentence_encoder

CONFIG = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "vocab_size": 30,
    "max_position_embeddings": 16,
    "layer_norm_eps": 1e-12,
}


def tensors():
    torch.manual_seed(0)
    shapes = {
        "embeddings.word_embeddings.weight": (30, 12),
        "embeddings.position_embeddings.weight": (16, 12),
        "embeddings.token_type_embeddings.weight": (2, 12),
        "embeddings.LayerNorm.weight": (12,),
        "embeddings.LayerNorm.bias": (12,),
    }
    for at in range(2):
        prefix = f"encoder.layer.{at}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            shapes[f"{prefix}.attention.{name}.weight"] = (12, 12)
            shapes[f"{prefix}.attention.{name}.bias"] = (12,)
        for name, shape in (("intermediate", (20, 12)), ("output", (12, 20))):
            shapes[f"{prefix}.{name}.dense.weight"] = shape
            shapes[f"{prefix}.{name}.dense.bias"] = shape[:1]
        for name in ("attention.output", "output"):
            shapes[f"{prefix}.{name}.LayerNorm.weight"] = (12,)
            shapes[f"{prefix}.{name}.LayerNorm.bias"] = (12,)
    return {name: torch.randn(shape) * 0.3 for name, shape in shapes.items()}


def write(folder, config=CONFIG, given=None):
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors() if given is None else given, folder / "model.safetensors")
    return folder


def test_it_computes_berts_embedding(tmp_path):
    encoder = load_sentence_encoder(write(tmp_path))
    tokens = torch.tensor([[1, 5, 7, 2], [1, 9, 9, 2]])
    found = encoder(tokens)
    assert found.shape == (2, 12)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))
    given = tensors()
    x = given["embeddings.word_embeddings.weight"][tokens]
    x = x + given["embeddings.position_embeddings.weight"][:4]
    x = x + given["embeddings.token_type_embeddings.weight"][0]
    first = torch.nn.functional.layer_norm(
        x, (12,), given["embeddings.LayerNorm.weight"], given["embeddings.LayerNorm.bias"], 1e-12
    )
    states = encoder.hidden(tokens)
    assert len(states) == 3
    torch.testing.assert_close(states[0], first)
    mean = states[-1].mean(1)
    torch.testing.assert_close(found, torch.nn.functional.normalize(mean))
    torch.testing.assert_close(encoder(tokens[1:]), found[1:])


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'; 'bert' is served"),
        ({"hidden_act": "silu"}, "hidden_act is 'silu'"),
        ({"hidden_size": "12"}, "hidden_size is '12'; a positive int is needed"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1"),
        ({"hidden_size": 18}, "of shape .*; config.json says"),
        ({"vocab_size": 1 << 19}, "of shape .*; config.json says"),
        ({"num_hidden_layers": 3}, "holds no 'encoder.layer.2"),
    ],
)
def test_files_that_do_not_fit_are_refused_by_name(tmp_path, change, wrong):
    with pytest.raises(ValueError, match=wrong):
        load_sentence_encoder(write(tmp_path, CONFIG | change))


def test_damaged_or_missing_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json"):
        load_sentence_encoder(tmp_path)
    write(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load_sentence_encoder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json"):
        load_sentence_encoder(tmp_path)
