"""Quantized networks of 4 and 2 bits on lookup kernels: a fraction of the bytes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from edge_kernels import layout
from edge_kernels.integer.check import check
from edge_kernels.integer.net import IntNet, Product, Table
from edge_kernels.integer.qdq import Parts, Writer, write
from edge_kernels.integer.recurrent import Recurrent

DOMAIN = "flwr.edge"


def nodes(net: IntNet, source: str, output: str, *, opset: int, prefix: str = "lut.") -> Parts:
    """Return nodes and initializers from a float tensor to a float tensor.

    Weights have the network's very codes and scales, a scale a row; activations are float between
    layers, and rounded to 8 bits in the kernels, a window at a time. `edge_kernels.sequential.fuse`
    makes one operator of them.

    Parameters
    ----------
    net : IntNet
        With weights of 4 or 2 bits.
    source, output, opset, prefix
        As of `edge_kernels.integer.qdq.nodes`.

    Raises
    ------
    ValueError
        If the network is not consistent, or a layer has other bits: its first and last layers
        have 8 where the others have 4, unless the quantizer's setting ``ends`` is 4.
    """
    check(net)
    return write(_Lookup(net, opset, prefix), source, output)


@dataclass
class _Lookup(Writer):
    """Values stay float; layers are lookups."""

    floats: dict[int, str] = field(default_factory=dict)

    def quantized(self, value: int, source: str) -> None:
        """Leave a value as it is."""
        self.floats[value] = source

    def read(self, value: int) -> str:
        """Return the name of a value in float."""
        return self.floats[value]

    def table(self, at: int, step: Table) -> str:
        """Refuse a function of one number: it is known as a table of integers alone."""
        raise ValueError(
            f"step {at}: a function of one number, which lookup kernels are not served with"
        )

    def recurrent(self, at: int, step: Recurrent) -> str:
        """Refuse a recurrent layer: its states are made position by position."""
        kind = "GRU" if step.gru else "LSTM"
        raise ValueError(f"step {at}: a recurrent layer ({kind}); to_edge and to_qdq serve it")

    def product(self, at: int, step: Product) -> str:
        """Append a layer; return its output's name."""
        if step.weight_bits not in (4, 2):
            raise ValueError(
                f"step {at}: weights of {step.weight_bits} bits; lookup kernels have 4 or 2: "
                'quantize with bits=4 or 2 and settings={"ends": 4}, which keeps the first layer '
                "and the last ones from twice as many"
            )
        rows, kernel, channels = step.weight.shape
        shape = layout.Shape(rows, kernel * channels, step.weight_bits, 0, "symmetric")
        codes = (step.weight.reshape(rows, -1).astype(np.int16) + shape.zero).astype(np.uint8)
        scales = step.weight_scale.astype(np.float32)[:, None]
        blob = layout.pack(codes, scales, bits=step.weight_bits, group=0, values="symmetric")
        unit = self.net.known(step.x).scale * step.weight_scale
        read = [
            self.read(step.x),
            self.constant(f"step{at}.weight", blob),
            self.constant(f"step{at}.bias", (step.bias * unit).astype(np.float32)),
        ]
        given = {"bits": step.weight_bits, "group": 0, "values": "symmetric", "n": rows}
        if step.linear:
            given |= {"k": channels}
            return self.make("LutMatMul", read, domain=DOMAIN, relu=int(step.relu), **given)
        given |= {"channels": channels, "kernel": kernel, "stride": step.stride}
        given |= {"dilation": step.dilation, "pads": [step.pad_begin, step.pad_end]}
        return self.make("LutConv1d", read, domain=DOMAIN, relu=int(step.relu), **given)
