import json

import pytest
from pydantic import ValidationError

from schemas.bundle import (
    MAX_MANIFEST,
    BundleError,
    Card,
    Input,
    Manifest,
    canonical,
    parse,
    signed_bytes,
    version_tuple,
)

SHA = "0" * 64


def part(name, size, coding="raw"):
    sizes = {"bytes": size, "stored": size, "sha256": SHA, "stored_sha256": SHA}
    return {"name": name, "coding": coding, **sizes}


def manifest(**changed):
    said = {
        "task": "activity",
        "classes": ("rest", "walk"),
        "input": {"time": 4, "channels": 2, "hz": 20},
        "bits": 8,
        "form": "edge",
        "model": {"sha256": SHA, "bytes": 30, "holes": ((10, 8), (10, 2))},
        "runtime": {"flwr_edge": "0.1.0", "onnxruntime": "1.20", "ops": ("IntSequential",)},
        "reference": {"windows": 1, "logits": ((0.5, -1.0),)},
        "parts": (part("graph", 20), part("weights", 10), part("reference", 32)),
    }
    return Manifest(**{**said, **changed})


def test_it_is_read_as_it_was_written():
    made = manifest()
    assert parse(canonical(made)) == made
    assert canonical(parse(canonical(made))) == canonical(made)


def test_the_spelling_is_one():
    text = canonical(manifest(name="Änn"))
    assert text.isascii()
    assert list(json.loads(text)) == sorted(json.loads(text))
    assert b" " not in text
    for other in (text + b"\n", text.replace(b"20.0", b"20"), text.replace(b'"bits":8,', b"")):
        with pytest.raises(BundleError):
            parse(other)


def test_a_signature_of_a_manifest_is_of_nothing_else():
    assert signed_bytes(b"{}") == b"flwr-edge bundle v1\n{}"


def test_a_manifest_that_is_too_long_is_not_read():
    with pytest.raises(BundleError, match="at most 1048576"):
        parse(b" " * (MAX_MANIFEST + 1))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"classes": ()}, "at least 1"),
        ({"classes": ("a", "a")}, "more than once"),
        ({"classes": ("a\n", "b")}, "printable"),
        ({"bits": 7}, "bits"),
        ({"form": "tflite"}, "form"),
        ({"tolerance": 0}, "tolerance"),
        ({"signer": "xyz"}, "signer"),
        ({"extra": 1}, "extra"),
        ({"input": {"time": 0, "channels": 2, "hz": 20}}, "input.time"),
        ({"input": {"time": 4, "channels": 2, "hz": float("inf")}}, "input.hz"),
        ({"input": {"time": 4, "channels": 3, "hz": 20}}, "reference: 32 bytes"),
        ({"model": {"sha256": SHA, "bytes": 31, "holes": ((10, 10),)}}, "model.bytes = 31"),
        ({"model": {"sha256": SHA, "bytes": 30, "holes": ((10, 9),)}}, "take 9 bytes of 10"),
        ({"model": {"sha256": SHA, "bytes": 30, "holes": ((9, 5), (8, 5))}}, "does not follow 9"),
        ({"model": {"sha256": SHA, "bytes": 30, "holes": ((21, 10),)}}, "does not follow"),
        ({"model": {"sha256": SHA, "bytes": 30, "holes": ((9, 0), (9, 10))}}, "does not follow"),
        ({"model": {"sha256": SHA, "bytes": 30}}, "expected graph, reference"),
        ({"reference": {"windows": 1, "logits": ((0.5,),)}}, "expected 2 a window"),
        ({"base": SHA}, "a base goes with a part"),
        ({"runtime": {"flwr_edge": "one", "onnxruntime": "1"}}, "flwr_edge"),
    ],
)
def test_what_does_not_fit(changed, said):
    with pytest.raises(ValidationError) as error:
        manifest(**changed)
    assert said in str(error.value) or said in str(error.value).replace("\n  ", ".")


def test_a_card_is_of_a_manifest():
    card = Card(
        task="activity", classes=("a", "b"), input=Input(time=1, channels=1, hz=1), bits=2,
        form="qdq",
    )  # fmt: skip
    assert set(Card.model_fields) < set(Manifest.model_fields)
    assert card.tolerance == 0.01


def test_versions_compare_as_numbers():
    assert version_tuple("1.26.0rc1") == (1, 26, 0)
    assert version_tuple("1.9") < version_tuple("1.20") < version_tuple("1.20.1")
    assert version_tuple("?") == ()
