"""Every hostile bundle is refused, with its own line, before anything is loaded or allocated."""

import hashlib
import os
import tracemalloc
import zlib

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client import bundle
from client.bundle.predictor import NotRunnableError, Predictor
from schemas.signing import new_key, public_hex
from tests.client import small_models
from tests.hostile.anatomy import Anatomy
from tests.hostile.bundles import HOSTILE

KEY = new_key()
PUBLIC = public_hex(KEY)
_MOST = 4 << 20  # bytes that may be allocated for a bundle of 4 KB


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("bundles")
    card, other = small_models.card(bits=8), small_models.codes(spread=5)
    bundle.write(made / "good", small_models.card(), small_models.codes(width=16), KEY)
    bundle.write(made / "base", card, small_models.codes(), KEY)
    bundle.write(made / "delta", card, other, KEY, base=made / "base")
    in_integers = small_models.card(bits=8, form="edge")
    bundle.write(made / "integers", in_integers, small_models.integers(), KEY)
    return made


@pytest.fixture(scope="module")
def good(folder):
    return (folder / "good").read_bytes()


def refused(path, data, key=PUBLIC, base=None):
    """The one line of a refusal, the path taken off; little memory was taken on the way."""
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(bundle.BundleError) as error:
            bundle.open(path, key, base=base)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < _MOST + 2 * len(data)
    said = str(error.value)
    assert said.isprintable()
    assert len(said) < 900
    assert said.startswith(f"{path}: ")
    return said.removeprefix(f"{path}: ")


def test_the_good_one_is_put_together_as_it_was(good, tmp_path):
    assert Anatomy.of(good).bytes() == good
    (tmp_path / "b").write_bytes(Anatomy.of(good).bytes(KEY))
    assert bundle.open(tmp_path / "b", PUBLIC).trust is bundle.Trust.FLEET


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(good, tmp_path, name):
    make, said = HOSTILE[name]
    anatomy = Anatomy.of(good)
    make(anatomy)
    assert said in refused(tmp_path / "b", anatomy.bytes(KEY))


def test_truncated_at_every_border_and_beside_it(good, tmp_path):
    ends = {0, 1, len(good) - 1}
    for border in Anatomy.of(good).borders():
        ends |= {border - 1, border, border + 1}
    for end in sorted(ends):
        said = refused(tmp_path / "b", good[:end])
        assert any(part in said for part in ("truncated", "bytes; ", "its manifest it has")), said


def test_every_altered_bit_of_a_small_bundle_is_noticed_without_a_key(good, tmp_path):
    for at in range(0, 8 * len(good), 29):
        altered = bytearray(good)
        altered[at // 8] ^= 1 << at % 8
        refused(tmp_path / "b", bytes(altered), key=None)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_junk_in_any_place(folder, data):
    good = (folder / "good").read_bytes()
    at = data.draw(st.integers(0, len(good) - 1))
    junk = data.draw(st.binary(min_size=1, max_size=8))
    end = data.draw(st.sampled_from([at, at + len(junk), len(good)]))
    made = good[:at] + junk + good[end:]
    if made != good:
        refused(folder / "b", made)


def leaves(value, path=()):
    """Paths to everything in a manifest."""
    yield path
    if isinstance(value, dict | list):
        inside = value.items() if isinstance(value, dict) else enumerate(value)
        for key, each in inside:
            yield from leaves(each, (*path, key))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=5), inside),
    max_leaves=6,
)


@settings(deadline=None, max_examples=300)
@given(st.data(), JSON)
def test_a_signed_manifest_with_anything_in_any_place(folder, data, value):
    anatomy = Anatomy.of((folder / "good").read_bytes())
    *way, last = data.draw(st.sampled_from([path for path in leaves(anatomy.manifest) if path]))
    place = anatomy.manifest
    for key in way:
        place = place[key]
    place[last] = value
    (folder / "b").write_bytes(anatomy.bytes(KEY))
    try:
        opened = bundle.open(folder / "b", PUBLIC)
    except bundle.BundleError:
        return
    assert opened.model == bundle.open(folder / "good").model
    assert opened.manifest.classes == tuple(anatomy.manifest["classes"])


@settings(deadline=None, max_examples=200)
@given(st.data(), st.binary(min_size=1, max_size=4))
def test_a_signed_graph_with_anything_in_any_place(folder, data, junk):
    anatomy = Anatomy.of((folder / "good").read_bytes())
    model = bundle.open(folder / "good").model
    at = data.draw(st.integers(0, len(model) - 1))
    _whole(anatomy, model[:at] + junk + model[at + len(junk) :])
    (folder / "b").write_bytes(anatomy.bytes(KEY))
    try:
        opened = bundle.open(folder / "b", PUBLIC)
    except bundle.BundleError:
        return
    assert opened.checked.inputs[0].shape == (None, 40, 3)


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-2, 70))
def test_a_signed_program_with_any_number_in_any_place_runs_or_is_refused(folder, data, number):
    anatomy = Anatomy.of((folder / "integers").read_bytes())
    model = onnx.load_from_string(bundle.open(folder / "integers").model)
    network = next(node for node in model.graph.node if node.op_type == "IntSequential")
    numbers = data.draw(st.sampled_from([each.ints for each in network.attribute if each.ints]))
    numbers[data.draw(st.integers(0, len(numbers) - 1))] = number
    _whole(anatomy, model.SerializeToString())
    (folder / "b").write_bytes(anatomy.bytes(KEY))
    try:
        logits = Predictor(bundle.open(folder / "b", PUBLIC)).logits(small_models.windows())
    except (bundle.BundleError, NotRunnableError):
        return
    assert logits.shape == (5, 4)


def _whole(anatomy, model):
    """Put a model whole into the graph, with true sizes and hashes."""
    at = [part["name"] for part in anatomy.manifest["parts"]].index("weights")
    del anatomy.manifest["parts"][at], anatomy.stored[at]
    digest = hashlib.sha256(model).hexdigest()
    anatomy.manifest["model"] = {"sha256": digest, "bytes": len(model), "holes": []}
    anatomy.replace("graph", model)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=300))
def test_junk(folder, junk):
    refused(folder / "b", junk)
    refused(folder / "b", b"FLWRBNDL\1\0\0\0" + junk)


def test_unsigned(good, tmp_path):
    anatomy = Anatomy.of(good)
    anatomy.signature = b""
    assert "not signed; only bundles of the fleet's key" in refused(tmp_path / "b", anatomy.bytes())
    assert "it names a signer and has no" in refused(tmp_path / "b", anatomy.bytes(), key=None)
    anatomy.manifest["signer"] = None
    assert "not signed" in refused(tmp_path / "b", anatomy.bytes())
    (tmp_path / "b").write_bytes(anatomy.bytes())
    assert bundle.open(tmp_path / "b").trust is bundle.Trust.UNSIGNED


def test_signed_by_another_key(good, tmp_path):
    resigned = Anatomy.of(good).bytes(new_key())
    assert f"not of the fleet's key {PUBLIC[:16]}" in refused(tmp_path / "b", resigned)
    (tmp_path / "b").write_bytes(resigned)
    assert bundle.open(tmp_path / "b").trust is bundle.Trust.SIGNER


def test_a_signature_of_other_bytes_of_the_fleet(good, tmp_path):
    anatomy = Anatomy.of(good)
    anatomy.signature = KEY.sign(anatomy.written())  # the manifest itself, not as a bundle's
    assert "its signature is not of" in refused(tmp_path / "b", anatomy.bytes())


def test_a_name_that_the_fleet_did_not_sign(good, tmp_path):
    anatomy = Anatomy.of(good)
    anatomy.manifest["name"] = "bob"
    assert "its signature is not of" in refused(tmp_path / "b", anatomy.bytes())


def test_a_difference_without_its_base_or_with_another(folder):
    delta = (folder / "delta").read_bytes()
    assert "name its base" in refused(folder / "b", delta)
    said = refused(folder / "b", delta, base=folder / "good")
    assert "is a difference from the bundle" in said
    assert str(folder / "good") in said
    assert bundle.open(folder / "delta", PUBLIC, base=folder / "base").manifest.base


def test_a_base_that_was_altered(folder):
    base = bytearray((folder / "base").read_bytes())
    base[-1] ^= 1
    (folder / "altered").write_bytes(base)
    with pytest.raises(bundle.BundleError, match=r"altered: part reference: its bytes were"):
        bundle.open(folder / "delta", PUBLIC, base=folder / "altered")


def test_a_base_that_is_a_difference_itself(folder):
    with pytest.raises(bundle.BundleError, match="is a difference itself"):
        bundle.write(folder / "x", small_models.card(), small_models.codes(), base=folder / "delta")


def test_a_difference_that_restores_something_else(folder):
    anatomy = Anatomy.of((folder / "delta").read_bytes())
    size, sha = anatomy.part("weights")["bytes"], anatomy.part("weights")["sha256"]
    anatomy.store("weights", zlib.compress(bytes(size)), size, sha, "sub")
    said = refused(folder / "b", anatomy.bytes(KEY), base=folder / "base")
    assert "part weights: what it restores is not" in said


def test_no_file(tmp_path):
    with pytest.raises(bundle.BundleError, match="is no file"):
        bundle.open(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(bundle.BundleError, match="is no file"):
        bundle.open(tmp_path / "pipe")


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # takes no room
    with pytest.raises(bundle.BundleError, match="1099511627776 bytes; a bundle has 20 to"):
        bundle.open(path)
