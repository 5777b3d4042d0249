"""``flwr-edge verify``, ``run BUNDLE`` and ``bench model`` as a user meets them."""

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from client import bundle, cli
from client.bundle.claims import measured, where
from client.windows import PersonWindows
from schemas.signing import new_key, public_hex
from tests.client import small_models
from tests.hostile.anatomy import Anatomy

KEY = new_key()
PUBLIC = public_hex(KEY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("bundles")
    bundle.write(made / "shared", small_models.card(bits=8), small_models.codes(), KEY)
    bundle.write(
        made / "ann", small_models.card(bits=8), small_models.codes(spread=3), KEY,
        base=made / "shared",
    )  # fmt: skip
    bundle.write(made / "lut", small_models.card(bits=2, form="edge"), small_models.lut(), KEY)
    bundle.write(made / "qdq", small_models.card(bits=8), small_models.qdq(), KEY)
    (made / "float.onnx").write_bytes(small_models.floats().SerializeToString())
    (made / "key").write_text(f"{PUBLIC}\n")
    windows = small_models.windows(9)
    np.save(made / "windows.npy", windows)
    np.savez(made / "windows.npz", X=windows, y=np.arange(9) % 4, hz=20.0)
    labels = np.zeros(9, np.int64)
    PersonWindows(windows[:6], labels[:6], windows[6:], labels[6:]).save(made / "person")
    (made / "replay.toml").write_text(f'path = "{made / "person"}"\n')
    return made


@pytest.fixture
def edge(capsys, monkeypatch, folder):
    """Run the command there: exit code, standard output, lines of standard error."""
    monkeypatch.chdir(folder)

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(each) for each in arguments])
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err.splitlines()

    return call


@pytest.mark.parametrize("words", [("run",), ("verify",), ("bench", "model")])
def test_help_teaches_with_examples(edge, words):
    code, out, err = edge(*words, "--help")
    assert (code, err) == (0, [])
    assert f"examples:\n  flwr-edge {' '.join(words)} " in out
    assert max(map(len, out.splitlines())) <= 100


def test_verify(edge):
    code, out, err = edge("verify", "ann", "--key", "key", "--base", "shared")
    assert (code, err) == (0, [])
    for part in ("signed by the fleet's key", "rest, walk, run, sit", "40 samples x 3", "8 bits"):
        assert part in out
    assert re.search(r"^reference  agrees \([\d.e-]+ x the tolerance\)$", out, re.MULTILINE)
    assert "whose that is was not checked" in edge("verify", "lut")[1]


def test_verify_as_json(edge):
    code, out, err = edge("verify", "lut", "--key", PUBLIC, "--format", "json")
    assert (code, err) == (0, [])
    found = json.loads(out)
    assert found["good"]
    assert found["trust"] == "fleet"
    assert found["manifest"]["runtime"]["ops"] == ["LutSequential"]


def test_verify_says_where_the_answer_is_another(edge, folder):
    anatomy = Anatomy.of((folder / "lut").read_bytes())
    anatomy.manifest["reference"]["logits"][0][0] += 9
    (folder / "off").write_bytes(anatomy.bytes(KEY))
    code, out, err = edge("verify", "off", "--key", PUBLIC)
    assert code == 1
    assert "off: its answer to the reference input is" in err[0]
    assert "LutSequential" in out
    assert "reference  differs (" in out


def stating(folder, name, **expected):
    """The bundle with another ``expected``, signed."""
    anatomy = Anatomy.of((folder / "lut").read_bytes())
    anatomy.manifest["expected"] |= expected
    (folder / name).write_bytes(anatomy.bytes(KEY))
    return name


def test_verify_names_a_lie_about_memory_or_latency(edge, folder):
    slim = stating(folder, "slim", memory_bytes=1, latency_us=1e-6, machine="another")
    fast = stating(folder, "fast", latency_us=1e-6, machine=where())
    for name, said in (
        (slim, "expected.memory_bytes = 1, "),
        (fast, "expected.latency_us = 1e-06"),
    ):
        code, out, err = edge("verify", name, "--key", PUBLIC, "--format", "json")
        (lie,) = json.loads(out)["lies"] if name == fast else [err[0]]
        assert (code, json.loads(out)["good"]) == (1, False)
        assert said in lie
        assert f"{name}: {said}" in err[0]


def test_verify_lets_an_honest_statement_pass(edge, folder):
    opened = bundle.open(folder / "lut")
    honest = measured(opened.manifest, opened.model).model_dump()
    generous = honest | {"latency_us": 100 * honest["latency_us"]}
    name = stating(folder, "honest", **generous)
    code, out, _ = edge("verify", name, "--key", PUBLIC, "--format", "json")
    assert code == 0
    assert json.loads(out)["lies"] == []


def test_verify_says_what_it_cannot_run(edge, folder):
    anatomy = Anatomy.of((folder / "lut").read_bytes())
    anatomy.manifest["runtime"]["flwr_edge"] = "99.0"
    (folder / "later").write_bytes(anatomy.bytes(KEY))
    code, out, err = edge("verify", "later", "--format", "json")
    assert (code, json.loads(out)["good"]) == (1, False)
    assert "needs flwr-edge 99.0 or newer" in err[0]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("verify", "gone"), "gone: No such file"),
        (("verify", "key"), "key: is no bundle"),
        (("verify", "ann"), "ann: is a difference from the bundle"),
        (("verify", "ann", "--base", "lut"), "lut is "),
        (("verify", "ann", "--base", "key"), "key: is no bundle"),
        (("verify", "ann", "--base", "gone"), "gone: No such file"),
        (("verify", "lut", "--key", "ab" * 32), "lut: its signature is not of the fleet's key"),
        (("verify", "lut", "--key", "AB"), "--key: 'AB': neither 64 hexadecimal digits nor"),
        (("verify", "lut", "--key", "lut"), "--key: lut: holds no 64 hexadecimal digits"),
        (("run",), "run: expected a BUNDLE or --config FILE: one of them"),
        (("run", "lut", "--config", "x"), "run: expected a BUNDLE or --config FILE: one"),
        (("run", "--config", "x", "--input", "y"), "run: --input: only with a bundle"),
        (("run", "lut", "--check", "--input", "y"), "run: --check: only with the daemon"),
        (("run", "lut"), "run: expected --input FILE.npy or --source NAME"),
        (("run", "lut", "--input", "x", "--source", "y"), "run: expected --input FILE.npy or"),
        (("run", "lut", "--input", "x", "--count", "1"), "run: --count goes with --source"),
        (("run", "lut", "--input", "gone.npy"), "gone.npy: not a readable .npy"),
        (("run", "lut", "--input", "windows.npy", "--hz", "50"), "windows.npy: 50 samples a"),
        (("run", "lut", "--source", "nose"), "'nose': no such source; installed: "),
        (("run", "lut", "--source", "replay"), "--settings: path: missing"),
        (("run", "lut", "--source", "replay", "--settings", "gone"), "gone: No such file"),
        (("run", "lut", "--source", "replay", "--settings", "key"), "key: "),
        (("bench", "model", "lut", "--against", "key"), "key: graph "),
        (("bench", "model", "lut", "--qdq", "lut"), "--qdq takes one of form qdq"),
        (("bench", "model", "lut", "--windows", "windows.npy"), "windows.npy: not a readable"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(edge, arguments, part):
    code, out, err = edge(*arguments)
    assert (code, out, len(err)) == (2, "", 1)
    assert part in err[0]
    assert err[0].startswith("flwr-edge: ")


@pytest.mark.parametrize("arguments", [("--count", "0"), ("--count", "x"), ("--hz", "-1")])
def test_bad_numbers(edge, arguments):
    code, _, err = edge("run", "lut", *arguments)
    assert code == 2
    assert f"{arguments[1]!r}" in err[0]


def test_predictions_of_a_file(edge):
    code, out, err = edge("run", "lut", "--input", "windows.npy", "--hz", 20, "--key", "key")
    assert (code, err) == (0, [])
    assert out.splitlines()[0].split() == ["window", "class", "probability"]
    told = [json.loads(x) for x in edge(*_RUN, "--format", "json")[1].splitlines()]
    rows = list(csv.DictReader(io.StringIO(edge(*_RUN, "--format", "csv")[1])))
    assert len(told) == len(rows) == len(out.splitlines()) - 1 == 9
    for number, (one, other) in enumerate(zip(told, rows, strict=True)):
        assert (one["window"], int(other["window"])) == (number, number)
        assert one["class"] == other["class"] == small_models.CLASSES[np.argmax(one["logits"])]
        assert float(other["probability"]) == pytest.approx(one["probability"], abs=1e-4)


_RUN = ("run", "lut", "--input", "windows.npy")


def test_predictions_of_a_sensor(edge):
    live = ("run", "lut", "--source", "replay", "--settings", "replay.toml", "--format", "json")
    code, out, err = edge(*live)
    assert (code, err) == (0, [])
    told = [json.loads(line)["class"] for line in out.splitlines()]
    file = edge(*_RUN, "--format", "json")[1]
    assert told == [json.loads(line)["class"] for line in file.splitlines()]
    assert len(edge(*live, "--count", 2)[1].splitlines()) == 2
    assert "ended after 9 windows of 10" in edge(*live, "--count", 10)[2][0]


def test_a_window_that_the_model_cannot_take_is_named(edge, folder):
    windows = small_models.windows(70)
    windows[66] = 3e38
    np.save(folder / "glitch.npy", windows)
    code, out, err = edge("run", "shared", "--input", "glitch.npy")
    assert (code, out) == (1, "")
    assert err == ["flwr-edge: glitch.npy: window 66: the model made NaN or infinity of it"]


def test_a_source_that_is_none_is_named_as_it_was_given(edge):
    code, out, err = edge("run", "lut", "--source", "none")
    assert (code, out) == (2, "")
    assert err[0].startswith("flwr-edge: --source: 'none': no such source; installed: ")


def test_a_pipe_until_ctrl_c(folder):
    (folder / "pipe.toml").write_text(f'path = "{folder / "pipe"}"\n')
    command = [sys.executable, "-m", "client.cli", "run", "lut", "--source", "pipe"]
    command += ["--settings", "pipe.toml", "--format", "csv"]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}  # noqa: PTH109
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder,
        env=environment,
    ) as process:  # fmt: skip
        while not (folder / "pipe").exists():
            time.sleep(0.02)
        with (folder / "pipe").open("w") as pipe:
            pipe.write("0.1,0.2,0.3\n" * 40)
            pipe.flush()
            assert process.stdout.readline() == "window,class,probability\n"
            assert process.stdout.readline().startswith("0,")
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 0
        assert process.stderr.read() == ""


def test_bench_model(edge):
    code, out, err = edge(
        *("bench", "model", "lut", "--key", "key", "--against", "float.onnx", "--qdq", "qdq"),
        *("--windows", "windows.npz", "--quick", "--format", "json"),
    )
    assert (code, err) == (0, [])
    found = json.loads(out)
    for name in ("f1", "f1_float", "speedup_over_fp32", "speedup_over_qdq", "bytes", "bytes_float"):
        assert found[name] is not None
    assert found["windows"] == 9


def test_bench_model_alone(edge):
    code, out, err = edge("bench", "model", "ann", "--base", "shared", "--quick")
    assert (code, err) == (0, [])
    assert "8 bits" in out
