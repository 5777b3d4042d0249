"""What was made by somebody's own code is told apart from what another version of it makes."""

import importlib
import sys

import pytest
from torch import nn

from hypernet.networks.classifier import Classifier
from server.graphs import GraphBook
from server.own_code import own_code

CODE = "from torch import nn\nSIGN = {sign}\nclass Tiny(nn.Linear):\n    pass\n"


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """Import a class ``Tiny`` from a module of one's own, as its source is at the moment."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def make(code, module="tiny_net", file="tiny_net.py"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(code)
        for name in [module, module.partition(".")[0]]:
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        return importlib.import_module(module).Tiny

    yield make
    for name in ("tiny_net", "tiny_package", "tiny_package.net"):
        sys.modules.pop(name, None)


def test_ours_and_torch_s_do_not_count():
    assert own_code([Classifier, nn.Linear, dict]) == ""


def test_an_edit_of_a_module_is_another_digest(tiny):
    first = own_code([tiny(CODE.format(sign=1))])
    assert first
    assert own_code([tiny(CODE.format(sign=1))]) == first
    assert own_code([tiny(CODE.format(sign=-1))]) != first


def test_an_edit_anywhere_in_the_package_is_another_digest(tiny, tmp_path):
    (tmp_path / "tiny_package").mkdir()
    (tmp_path / "tiny_package" / "__init__.py").touch()
    (tmp_path / "tiny_package" / "loss.py").write_text("SIGN = 1")
    cls = tiny(CODE.format(sign=1), "tiny_package.net", "tiny_package/net.py")
    first = own_code([cls])
    (tmp_path / "tiny_package" / "loss.py").write_text("SIGN = -1")
    assert own_code([cls]) != first


def made(forward_of):
    class Net(Classifier):
        forward = forward_of

    return Net


def test_a_base_counts_and_a_method_does_where_a_function_makes_the_class():
    one, two = made(lambda s, x, m, d: s.head(x)), made(lambda s, x, m, d: -s.head(x))
    assert own_code([one]) != own_code([two])
    heirs = [type("Heir", (base,), {"__module__": "mine"}) for base in (one, two)]
    assert own_code(heirs[:1]) != own_code(heirs[1:])


def test_two_networks_of_one_name_are_two_graphs(spec, monkeypatch):
    """Deep in it, too: a layer's code is as much of the graph."""

    class Named(GraphBook):
        def _get(self, of, kind, make):
            return super()._get(of, kind, lambda: str(id(of)).encode())

    book = Named()
    nets = [made(lambda s, x, m, d: s.head(x)), made(lambda s, x, m, d: -s.head(x))]
    nets = [net(spec, 3, 4, 4) for net in nets]
    assert book.forward(nets[0]) != book.forward(nets[1])
    for net, scale in zip(nets, (1, 2), strict=True):
        net.__class__ = Classifier
        source = f"class Head(nn.Linear):\n    def forward(self, x): return {scale} * x"
        exec(source, names := {"nn": nn, "__name__": "mine"})
        net.head = names["Head"](4, 3)
    assert book.forward(nets[0]) != book.forward(nets[1])
