"""``flwr-sim export`` and ``quantized`` as a user meets them."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest

from client import bundle
from client.bundle.claims import where
from schemas.signing import new_key
from simulations import export
from simulations.bench.cells import Cell
from simulations.bench.quantized import markdown, rows_of
from simulations.export import Export, Starts, usual_form
from simulations.report.folder import RunFolder


@pytest.fixture
def person(finished_run):
    return RunFolder.open(finished_run).summary().persons[0]


@pytest.fixture
def key(tmp_path):
    from cryptography.hazmat.primitives import serialization as how

    path = tmp_path / "fleet.pem"
    plain = how.NoEncryption()
    path.write_bytes(new_key().private_bytes(how.Encoding.PEM, how.PrivateFormat.PKCS8, plain))
    return path


def test_the_float_model_and_the_windows_give_the_run_s_score(sim, finished_run, person, tmp_path):
    model, windows = tmp_path / "a.onnx", tmp_path / "a.npz"
    code, out, _ = sim(
        "export", finished_run, "--person", person, "--float", model, "--windows", windows,
        "--strategy", "finetune", "--format", "json",
    )  # fmt: skip
    assert code == 0
    assert json.loads(out)["bytes_float"] == model.stat().st_size
    with np.load(windows) as held:
        x, y, hz, classes = (held[name] for name in ("windows", "labels", "hz", "classes"))
    assert (x.dtype, float(hz), len(classes)) == (np.float32, 10.0, 3)
    logits = ort.InferenceSession(model.read_bytes()).run(None, {"windows": x})[0]
    found = np.zeros((3, 3), np.int64)
    np.add.at(found, (y, logits.argmax(1)), 1)
    fields = json.loads((finished_run / "checkpoint" / "finetune.json").read_text())
    np.testing.assert_array_equal(found, fields["outcome"]["confusion"][person])


@pytest.mark.parametrize(
    ("bits", "form"),
    [
        ("8", None),
        ("8", "qdq"),
        ("2", "lookup"),
        ("32", "edge"),
        pytest.param("4", "lookup", marks=pytest.mark.study),
    ],
)
def test_a_bundle_opens_and_runs(sim, finished_run, person, tmp_path, key, bits, form):
    path = tmp_path / "a.flwb"
    code, out, _ = sim(
        "export", finished_run, "--person", person, "--out", path, "--bits", bits,
        *(("--form", form) if form else ()), "--quantizer", "rtn", "--signing-key", key,
        "--strategy", "finetune", "--format", "json",
    )  # fmt: skip
    assert code == 0
    said = json.loads(out)
    opened = bundle.open(path)
    manifest = opened.manifest
    assert (manifest.name, manifest.bits, len(manifest.classes)) == (person, int(bits), 3)
    assert manifest.form == ("qdq" if bits == "32" or form == "qdq" else "edge")
    assert (manifest.input.time, manifest.input.channels, manifest.input.hz) == (20, 6, 10.0)
    assert manifest.signer is not None
    assert said["signed"]
    assert said["bytes"] == path.stat().st_size
    if bits == "32":
        assert said["f1"] == said["f1_float"]
        assert (said["quantizer"], said["ranges"]) == (None, None)


def test_the_readmes_python_runs(sim, finished_run, person, tmp_path, monkeypatch, capsys):
    text = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```python\n(import json\n.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs/wearables-1").symlink_to(finished_run)
    exported = sim(
        "export", finished_run, "--person", person, "--out", "ann.flwb", "--windows", "ann.npz",
        "--strategy", "finetune", "--quantizer", "rtn", "--format", "json",
    )  # fmt: skip
    assert exported[0] == 0
    capsys.readouterr()
    exec(script, {})
    scores, share = capsys.readouterr().out.splitlines()
    assert scores.startswith(RunFolder.open(finished_run).summary().strategy)
    assert float(share) == pytest.approx(json.loads(exported[1])["f1"], abs=0.1)


@pytest.mark.parametrize(("bits", "form"), [(8, "edge"), (4, "edge"), (2, "lookup")])
def test_the_usual_form_of_so_many_bits(bits, form):
    assert usual_form(bits) == form


def test_two_bits_start_from_the_shared_model_which_is_learned_once(monkeypatch):
    asked, told = [], []
    monkeypatch.setattr(export, "shared", lambda *_, **how: asked.append(how) or "start")
    starts = Starts(SimpleNamespace(run="run", shared="model", sources="windows"), told.append)
    assert starts.of(Export(bits=4)) is None
    wanted = [Export(bits=2, form="lookup", seed=seed) for seed in (0, 0, 1)]
    assert [starts.of(each) for each in wanted] == ["start"] * 3
    assert [(how["bits"], how["seed"]) for how in asked] == [(2, 0), (2, 1)]
    assert told == ["run: distilled learns the shared model first"] * 2


def test_a_bundle_may_say_what_it_takes(sim, finished_run, person, tmp_path):
    path = tmp_path / "a.flwb"
    arguments = ("--person", person, "--out", path, "--quantizer", "rtn", "--measure")
    assert sim("export", finished_run, *arguments)[0] == 0
    manifest = bundle.open(path).manifest
    said = manifest.expected
    assert (said.machine, said.memory_bytes > 0, said.latency_us > 0) == (where(), True, True)


def test_the_same_bytes_twice_and_a_difference_from_what_is_shared(
    sim, finished_run, person, tmp_path
):
    common = ("--quantizer", "rtn", "--strategy", "finetune")
    paths = [tmp_path / name for name in ("shared", "a", "b", "difference")]
    assert sim("export", finished_run, "--shared", "--out", paths[0], *common)[0] == 0
    for path in paths[1:3]:
        assert sim("export", finished_run, "--person", person, "--out", path, *common)[0] == 0
    assert paths[1].read_bytes() == paths[2].read_bytes()
    base = ("--base", paths[0])
    code, *_ = sim("export", finished_run, "--person", person, "--out", paths[3], *common, *base)
    assert code == 0
    assert paths[3].stat().st_size <= 1.1 * paths[1].stat().st_size


def test_what_is_wrong_on_the_command_line_is_2_and_said_before_any_work(
    sim, finished_run, person, tmp_path
):
    who = ("--person", person)
    out = ("--out", tmp_path / "x")
    (tmp_path / "no.pem").write_text("none")
    for arguments, part in (
        ((*who,), "nothing to write: name --out, --float or --windows"),
        ((*out,), "name one: --person NAME, or --shared"),
        ((*out, *who, "--shared"), "name one: --person NAME, or --shared"),
        (("--shared", "--windows", tmp_path / "x"), "--shared has no windows of its own"),
        ((*who, "--out", tmp_path / "none" / "x"), "no such folder"),
        ((*who, "--out", tmp_path), "is a folder; name a file"),
        ((*who, *out, "--float", tmp_path / "x"), "each needs a file of its own"),
        ((*who, *out, "--base", tmp_path / "none"), "no such file"),
        ((*who, *out, "--base", tmp_path / "no.pem"), f"--base {tmp_path / 'no.pem'}: 4 bytes"),
        ((*who, *out, "--form", "lookup"), "its kernels have 4 and 2 bits; give --bits 4"),
        ((*who, *out, "--form", "lookup", "--bits", "32"), "--form lookup: its kernels have"),
        (
            (*who, *out, "--signing-key", tmp_path / "none"),
            f"--signing-key {tmp_path / 'none'}: No such file",
        ),
        (
            (*who, *out, "--key", tmp_path / "none"),
            f"--signing-key {tmp_path / 'none'}: No such file",
        ),
        ((*who, *out, "--key", tmp_path / "no.pem"), "not a private Ed25519 key in PEM"),
        ((*who, *out, "--quantizer", "none"), "none: not installed; there are "),
        (("--person", "Nobody", *out), "no person 'Nobody'; there are person "),
    ):
        code, said, lines = sim("export", finished_run, *arguments)
        assert (code, said) == (2, ""), arguments
        assert part in lines[-1]
        assert not (tmp_path / "x").exists()
    assert sim("export", finished_run, *who, *out, "--bits", "3")[0] == 2


def test_no_such_run_is_1(sim, tmp_path):
    code, _, lines = sim("export", tmp_path / "none", "--person", "x", "--out", tmp_path / "x")
    assert code == 1
    assert lines[-1].startswith(f"flwr-sim: {tmp_path / 'none'}: no such folder")


def test_a_study_is_kept_as_it_comes_and_goes_on(sim, finished_run, person, tmp_path):
    out = tmp_path / "study.jsonl"
    words = ["quantized", finished_run, "--bits", "8", "--person", person, "--out", out]
    code, said, _ = sim(*words, "--quantizer", "rtn", "--format", "json")
    assert code == 0
    (row,) = json.loads(said)["rows"]
    (cell,) = map(json.loads, out.read_text().splitlines())
    assert (cell["person"], cell["form"]) == (person, "edge")
    assert row["difference"] == pytest.approx(cell["f1"] - cell["f1_float"])
    out.write_text(json.dumps({**cell, "f1": 0.125}) + "\n")
    code, said, _ = sim(*words, "--quantizer", "rtn", "--quantizer", "smoothquant")
    assert code == 0
    assert "| W8A8 | rtn | 0.125 |" in said
    assert "| W8A8 | smoothquant |" in said
    assert len(out.read_text().splitlines()) == 2


def test_a_file_of_something_else_is_no_study(sim, finished_run, tmp_path):
    out = tmp_path / "study.jsonl"
    out.write_text('{"run": 1}\n')
    code, _, lines = sim("quantized", finished_run, "--out", out)
    assert code == 1
    assert lines[-1].endswith(f"{out}, line 1: no figures of `flwr-sim quantized`")
    assert out.read_text() == '{"run": 1}\n'


def cell(person, quantizer, f1):
    return Cell(
        run="r", person=person, seen=True, quantizer=quantizer, bits=4, f1=f1, f1_float=0.9,
        seconds=1.0, bytes=1000, form="edge",
    )  # fmt: skip


def test_rows_name_the_worst_person_and_how_much_of_rtns_loss_is_gone():
    cells = [cell("a", "rtn", 0.8), cell("b", "rtn", 0.6), cell("a", "x", 0.9), cell("b", "x", 0.8)]
    nearest, better = rows_of(cells)
    assert (nearest.worst_person, better.worst_person) == ("b", "b")
    assert nearest.difference == pytest.approx(-0.2)
    assert better.worst == pytest.approx(-0.1)
    assert better.closer == pytest.approx(0.75)
    text = markdown(cells)
    assert "| W4A8 | x | 0.850 | -0.0500 | -0.100 b | +75% gone | 1.0 | 1 |" in text


def test_help_shows_the_signing_key_and_hides_its_old_name(sim):
    shown = sim("export", "--help")[1]
    assert "--signing-key" in shown
    assert "PRIVATE" in shown
    assert "--key" not in shown
