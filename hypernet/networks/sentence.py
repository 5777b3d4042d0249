"""The sentence encoders of the BERT form (MiniLM among them), read from their own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from hypernet.networks.transformer import Block

_NEEDED: Final[dict[str, type[int | float]]] = {
    "hidden_size": int,
    "num_hidden_layers": int,
    "num_attention_heads": int,
    "intermediate_size": int,
    "vocab_size": int,
    "max_position_embeddings": int,
    "layer_norm_eps": float,
}
# Of a layer in the files, and of `Block`.
_NAMES: Final = {
    "attention.self.query": "attention.query",
    "attention.self.key": "attention.key",
    "attention.self.value": "attention.value",
    "attention.output.dense": "attention.output",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "norm2",
}
_EMBEDDINGS: Final = {
    "embeddings.word_embeddings.weight": "words.weight",
    "embeddings.position_embeddings.weight": "places.weight",
    "embeddings.LayerNorm.weight": "norm.weight",
    "embeddings.LayerNorm.bias": "norm.bias",
}
_KINDS: Final = "embeddings.token_type_embeddings.weight"


class SentenceEncoder(nn.Module):
    """Tokens → the mean of BERT's last hidden states (arXiv:1810.04805), of unit length.

    Every position reads all: sentences of a batch have equally many tokens, and no padding.

    Parameters
    ----------
    width, layers, heads, hidden : int
    vocabulary, longest : int
        Tokens there are, and that a sentence may have.
    eps : float
        Of the norms.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        hidden: int,
        *,
        vocabulary: int,
        longest: int = 512,
        eps: float = 1e-12,
    ) -> None:
        super().__init__()
        self.longest = longest
        self.words = nn.Embedding(vocabulary, width)
        self.places = nn.Embedding(longest, width)
        self.norm = nn.LayerNorm(width, eps)
        self.blocks = nn.ModuleList(
            Block(width, heads, hidden, pre_norm=False, eps=eps) for _ in range(layers)
        )

    def hidden(self, tokens: Tensor) -> list[Tensor]:
        """(sentences, tokens) int64 → (sentences, tokens, width) of embeddings and each block."""
        states = [self.norm(self.words(tokens) + self.places.weight[: tokens.shape[1]])]
        for block in self.blocks:
            states.append(block(states[-1]))
        return states

    def forward(self, tokens: Tensor) -> Tensor:
        """(sentences, tokens) int64 → (sentences, width)."""
        mean = self.hidden(tokens)[-1].mean(1)
        return mean / mean.square().sum(1, keepdim=True).sqrt()


def load_sentence_encoder(folder: Path) -> SentenceEncoder:
    """Read ``config.json`` and ``model.safetensors`` of a folder.

    Raises
    ------
    ValueError
        Where a file is missing or damaged, the model is none of the BERT form, or its tensors are
        others than its configuration says; the message names file and key.
    """
    given = _config(folder / "config.json")
    tensors = _tensors(folder / "model.safetensors")
    state = _state(tensors, given["num_hidden_layers"], folder)
    with torch.device("meta"):  # nothing is allocated before the shapes agree
        made = SentenceEncoder(
            given["hidden_size"],
            given["num_hidden_layers"],
            given["num_attention_heads"],
            given["intermediate_size"],
            vocabulary=given["vocab_size"],
            longest=given["max_position_embeddings"],
            eps=given["layer_norm_eps"],
        )
    for name, wanted in made.state_dict().items():
        if state[name].shape != wanted.shape:
            raise ValueError(
                f"{folder}: {name!r} is of shape {tuple(state[name].shape)}; config.json says "
                f"{tuple(wanted.shape)}"
            )
    made.load_state_dict(state, assign=True)
    return made.eval()


def _config(path: Path) -> dict[str, Any]:
    try:
        given = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}; the model's own config.json is needed") from error
    form = {"model_type": "bert", "hidden_act": "gelu"}
    for key, value in form.items():
        if given.get(key) != value:
            raise ValueError(f"{path}: {key} is {given.get(key)!r}; {value!r} is served")
    for key, kind in _NEEDED.items():
        value = given.get(key)
        if type(value) is not kind or not 0 < value < 1 << 20:
            raise ValueError(f"{path}: {key} is {value!r}; a positive {kind.__name__} is needed")
    return dict(given)


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: {error}; the model's own model.safetensors is needed") from error


def _state(tensors: dict[str, Tensor], layers: int, folder: Path) -> dict[str, Tensor]:
    """The tensors under this module's names; the one kind of tokens is part of the positions."""
    names = dict(_EMBEDDINGS)
    for at in range(layers):
        for theirs, own in _NAMES.items():
            for part in ("weight", "bias"):
                names[f"encoder.layer.{at}.{theirs}.{part}"] = f"blocks.{at}.{own}.{part}"
    missing = sorted({*names, _KINDS} - set(tensors))
    if missing:
        raise ValueError(f"{folder}: model.safetensors holds no {missing[0]!r}")
    state = {own: tensors[theirs].float() for theirs, own in names.items()}
    state["places.weight"] = state["places.weight"] + tensors[_KINDS][0].float()
    return state
