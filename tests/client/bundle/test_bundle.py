"""Writing and opening: what goes in comes out, to the byte."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from client import bundle
from client.bundle.predictor import Predictor
from schemas.bundle import Input, Normalisation
from schemas.signing import new_key, public_hex
from tests.client import small_models

KEY = new_key()
MODELS = {
    "float": (small_models.floats().SerializeToString, {}),
    "codes": (small_models.codes, {"bits": 8}),
    "qdq": (small_models.qdq, {"bits": 8}),
    "IntSequential": (small_models.integers, {"bits": 8, "form": "edge"}),
    "LutSequential": (small_models.lut, {"bits": 2, "form": "edge"}),
    "LutMatMul": (lambda: small_models.lut(fused=False), {"bits": 2, "form": "edge"}),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_bundle_holds_its_model_and_runs_it(tmp_path, name):
    make, said = MODELS[name]
    model, card = make(), small_models.card(**said)
    written = bundle.write(tmp_path / "b", card, model, KEY)
    opened = bundle.open(tmp_path / "b", public_hex(KEY))
    assert opened.model == model
    assert opened.manifest == written
    assert opened.trust is bundle.Trust.FLEET
    assert opened.size == (tmp_path / "b").stat().st_size
    predictor = Predictor(opened)
    assert predictor.reference_error() < 0.01
    logits = predictor.logits(small_models.windows(70))
    assert logits.shape == (70, 4)
    if said.get("form") != "edge":
        expected = small_models.logits_of(model, small_models.windows(70))
        np.testing.assert_allclose(logits, expected, atol=1e-2)


LENGTH = [
    ("ReduceL2", ["h", "axis"], ["length"], {}),
    ("Clip", ["length", "least"], ["clipped"], {}),
    ("Shape", ["h"], ["sizes"], {}),
    ("Expand", ["clipped", "sizes"], ["wide"], {}),
    ("Div", ["h", "wide"], ["logits"], {}),
]
KEPT = {
    "LogSoftmax": lambda: small_models.ending(("LogSoftmax", ["h"], ["logits"], {})),
    "a vector's direction": lambda: small_models.ending(
        *LENGTH, axis=np.array([1]), least=np.float32(1e-12)
    ),
    "GRU": lambda: small_models.recurrent("GRU"),
    "LSTM": lambda: small_models.recurrent("LSTM"),
}


@pytest.mark.filterwarnings("ignore:layers before")
@pytest.mark.parametrize("how", ["integers", "few bits"])
@pytest.mark.parametrize("name", KEPT)
def test_what_a_quantizer_keeps_in_float_is_taken(tmp_path, name, how):
    from edge_kernels import quantize
    from edge_kernels.sequential import fuse

    model, x = KEPT[name](), small_models.windows(64)
    if how == "integers":
        made = quantize.to_edge(quantize.quantize(model, x, quantizer="rtn"))
    else:
        made = fuse(quantize.rtn(model, bits=4, gain=0))
    card = small_models.card(bits=8, form="edge")
    bundle.write(tmp_path / "b", card, made.SerializeToString())
    found = Predictor(bundle.open(tmp_path / "b")).logits(x)
    right = small_models.logits_of(model, x)
    share = 0.02 if how == "integers" else 0.25
    assert np.linalg.norm(found - right) < share * np.linalg.norm(right)


def test_the_two_exports_agree(tmp_path):
    logits = {}
    for form in ("edge", "qdq"):
        card = small_models.card(bits=8, form=form)
        bundle.write(tmp_path / form, card, small_models.integers(form))
        predictor = Predictor(bundle.open(tmp_path / form))
        logits[form] = predictor.logits(small_models.windows(50))
    np.testing.assert_allclose(logits["edge"], logits["qdq"], atol=0.05)


def test_what_the_page_of_bundles_names_is_there(tmp_path):
    page = (Path(bundle.__file__).parents[2] / "schemas" / "BUNDLE.md").read_text()
    named = set(re.findall(r"`client\.bundle\.(\w+)", page))
    assert named == {"open", "write", "Predictor"} <= set(bundle.__all__)
    bundle.write(tmp_path / "b", small_models.card(bits=2, form="edge"), small_models.lut())
    assert bundle.Predictor(bundle.open(tmp_path / "b")).logits(small_models.windows(2)).shape == (
        2, 4
    )  # fmt: skip


def test_operators_of_ours_are_named(tmp_path):
    card = small_models.card(bits=2, form="edge")
    written = bundle.write(tmp_path / "b", card, small_models.lut(fused=False))
    assert written.runtime.ops == ("LutConv1d", "LutMatMul")


def test_the_same_inputs_are_the_same_bytes(tmp_path):
    card, model = small_models.card(), small_models.codes()
    bundle.write(tmp_path / "base", card, small_models.codes(seed=1), KEY)
    for name in ("one", "other"):
        bundle.write(tmp_path / name, card, model, KEY, base=tmp_path / "base")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_a_person_near_the_shared_model_is_a_small_difference(tmp_path):
    card, model = small_models.card(bits=8), small_models.codes(width=512, spread=3)
    bundle.write(tmp_path / "base", card, small_models.codes(width=512))
    bundle.write(tmp_path / "whole", card, model)
    written = bundle.write(tmp_path / "delta", card, model, base=tmp_path / "base")
    opened = bundle.open(tmp_path / "delta", base=tmp_path / "base")
    assert opened.model == model
    assert written.base == bundle.open(tmp_path / "base").sha256
    assert {part.coding for part in written.parts} == {"sub"}
    assert opened.size < 0.35 * (tmp_path / "whole").stat().st_size


def test_a_person_far_from_the_base_does_not_need_it(tmp_path):
    card = small_models.card()
    bundle.write(tmp_path / "base", card, small_models.codes(), reference=small_models.windows(1))
    other = small_models.floats(7, width=24).SerializeToString()
    written = bundle.write(
        tmp_path / "b", card, other, base=tmp_path / "base", reference=small_models.windows(1, 8)
    )
    if written.base is None:
        assert bundle.open(tmp_path / "b").model == other
    assert bundle.open(tmp_path / "b", base=tmp_path / "base").model == other


def test_not_signed(tmp_path):
    bundle.write(tmp_path / "b", small_models.card(), small_models.codes())
    opened = bundle.open(tmp_path / "b")
    assert opened.trust is bundle.Trust.UNSIGNED
    assert opened.manifest.signer is None


@pytest.mark.parametrize("key", ["fleet.key", "", "ab" * 31, "ab" * 33, bytes(32)])
def test_a_key_that_is_none_is_not_the_bundle_s_fault(tmp_path, key):
    path = tmp_path / "ann.flwb"
    bundle.write(path, small_models.card(bits=2, form="edge"), small_models.lut(), KEY)
    with pytest.raises(ValueError, match="expected its 64 hexadecimal digits") as error:
        bundle.open(path, key)
    assert not isinstance(error.value, bundle.BundleError)
    assert bundle.open(path, f"{public_hex(KEY).upper()}\n").trust is bundle.Trust.FLEET


def test_without_cryptography(tmp_path, monkeypatch):
    bundle.write(tmp_path / "b", small_models.card(), small_models.codes(), KEY)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    assert bundle.open(tmp_path / "b").trust is bundle.Trust.UNCHECKED
    with pytest.raises(bundle.BundleError, match=r"flwr-edge\[signed\]"):
        bundle.open(tmp_path / "b", public_hex(KEY))


def test_a_bundle_is_as_private_as_the_one_before_and_a_link_stays(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.touch(0o600)
    link.symlink_to(target)
    bundle.write(link, small_models.card(), small_models.codes())
    assert link.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o600
    bundle.open(target)


def test_a_write_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "b"
    path.write_bytes(b"old")
    other = small_models.card(input=Input(time=9, channels=3, hz=20))
    with pytest.raises(bundle.BundleError, match="windows of"):
        bundle.write(path, other, small_models.codes())
    with pytest.raises(bundle.BundleError):
        bundle.write(path, small_models.card(classes=("a", "b")), small_models.codes())
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [b"old"]


@pytest.mark.parametrize(
    ("model", "said", "problem"),
    [
        (small_models.lut, {"form": "qdq"}, "a model with those has the form edge"),
        (small_models.codes, {"classes": ("a", "b")}, "the manifest says 2 logits"),
        (
            lambda: small_models.floats(batch=1, made="batch").SerializeToString(),
            {},
            "of the output logits the batch is free, of the input windows it is 1",
        ),
        (
            lambda: small_models.renamed(windows="x"),
            {},
            r"of x: float32\['\?', 40, 3\]; a bundle's one input is windows .*: rename it, or",
        ),
        (lambda: small_models.renamed(logits="y"), {}, r"makes y: .*its output logits: rename it"),
        (
            lambda: small_models.floats(time=3, channels=40).SerializeToString(),
            {},
            r"says windows of \(40, 3\): channels come last, transpose in the model",
        ),
        (lambda: b"", {}, "is no ONNX model"),
        (
            lambda: small_models.floats(batch=7).SerializeToString(),
            {},
            r"takes windows: float32\[7, 40, 3\]",
        ),
    ],
)
def test_a_model_that_is_not_its_cards(tmp_path, model, said, problem):
    with pytest.raises(bundle.BundleError, match=problem):
        bundle.write(tmp_path / "b", small_models.card(**said), model())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("reference", "problem"),
    [
        (np.zeros((1, 41, 3), np.float32), r"shape \(1, 41, 3\)"),
        (np.full((1, 40, 3), np.nan, np.float32), "NaN"),
        (np.zeros((1, 40, 3)), "float64"),
        (np.zeros((17, 40, 3), np.float32), "reference: 17 windows"),
        (np.zeros((0, 40, 3), np.float32), "reference: 0 windows"),
    ],
)
def test_a_reference_that_does_not_fit(tmp_path, reference, problem):
    with pytest.raises(bundle.BundleError, match=problem):
        bundle.write(tmp_path / "b", small_models.card(), small_models.codes(), reference=reference)
    assert not list(tmp_path.iterdir())


def test_a_normalisation_that_the_reader_does(tmp_path):
    given = Normalisation(mean=(1.0, 0.0, -1.0), deviation=(2.0, 1.0, 4.0))
    card = small_models.card(input=Input(time=40, channels=3, hz=20, normalisation=given))
    bundle.write(tmp_path / "b", card, small_models.floats().SerializeToString())
    x = small_models.windows(3)
    scaled = (x - np.float32([1, 0, -1])) / np.float32([2, 1, 4])
    expected = small_models.logits_of(small_models.floats(), scaled)
    found = Predictor(bundle.open(tmp_path / "b")).logits(x)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_device_loads_only_what_it_needs():
    script = "import sys, client.bundle; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"onnx", "torch", "cryptography", "flwr", "server", "simulations"}
