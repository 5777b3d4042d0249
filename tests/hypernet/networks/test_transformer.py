"""The transformer encoder: shapes, positions, both places of the norms, torch's own as a twin."""

import pytest
import torch
from torch import nn

from hypernet.networks import InputSpec, TransformerEncoder
from hypernet.networks.transformer import Block

SPEC = InputSpec(23, 3, ((0, 1, 2),))


@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("time", [5, 23, 30])
def test_windows_of_any_length_become_latent_vectors(time, pre_norm):
    spec = InputSpec(time, 3, ((0, 1, 2),))
    encoder = TransformerEncoder(spec, 16, 7, layers=3, heads=2, patch=4, pre_norm=pre_norm).eval()
    x = torch.randn(6, 4, time)
    states = encoder.hidden(x)
    assert [each.shape for each in states] == [(6, -(-time // 4), 16)] * 4
    out = encoder(x)
    assert out.shape == (6, 7)
    assert (out >= 0).all()
    torch.testing.assert_close(encoder(x[2:3]), out[2:3])


@pytest.mark.parametrize("pre_norm", [True, False])
def test_a_block_is_torchs_own_encoder_layer(pre_norm):
    torch.manual_seed(0)
    block = Block(12, 3, 20, pre_norm=pre_norm).eval()
    twin = nn.TransformerEncoderLayer(
        12, 3, 20, 0.0, "gelu", batch_first=True, norm_first=pre_norm
    ).eval()
    own = block.attention
    parts = [own.query, own.key, own.value]
    with torch.no_grad():
        twin.self_attn.in_proj_weight.copy_(torch.cat([each.weight for each in parts]))
        twin.self_attn.in_proj_bias.copy_(torch.cat([each.bias for each in parts]))
        for mine, theirs in [
            (own.output, twin.self_attn.out_proj),
            (block.up, twin.linear1),
            (block.down, twin.linear2),
            (block.norm1, twin.norm1),
            (block.norm2, twin.norm2),
        ]:
            theirs.weight.copy_(mine.weight)
            theirs.bias.copy_(mine.bias)
    x = torch.randn(4, 9, 12)
    torch.testing.assert_close(block(x), twin(x))


def test_the_order_of_time_counts():
    torch.manual_seed(0)
    encoder = TransformerEncoder(SPEC, 16, 8).eval()
    x = torch.randn(2, 4, 23)
    assert not torch.allclose(encoder(x), encoder(x.flip(-1)), atol=1e-3)


def test_every_parameter_learns():
    encoder = TransformerEncoder(SPEC, 16, 8).train()
    (encoder(torch.randn(9, 4, 23)) * torch.randn(9, 8)).sum().backward()
    still = [n for n, p in encoder.named_parameters() if not p.grad.any()]
    assert all(name.endswith("key.bias") for name in still)  # the softmax does not see it


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="3 heads do not divide a width of 16"):
        TransformerEncoder(SPEC, 16, 8, heads=3)


def test_it_has_the_size_that_its_docstring_says():
    encoder = TransformerEncoder(InputSpec(100, 6, ((0, 1, 2), (3, 4, 5))))
    assert 21_000 < sum(p.numel() for p in encoder.parameters()) < 22_000
