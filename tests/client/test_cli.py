"""``flwr-edge`` as a user meets it."""

import argparse
import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from client import cli
from client.commands import output
from client.ring_file import RingError
from client.store import StoreError
from schemas.base import ConfigError
from schemas.bench import KernelReport

ROOT = Path(__file__).parents[2]
TINY = ("bench", "kernels", "--quick", "--shapes", "128x64", "--m", "1", "--bits", "1,ternary")


@pytest.fixture
def edge(capsys):
    """Run the command in this process: exit code, standard output, lines of standard error."""

    def call(*arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(each) for each in arguments])
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err.splitlines()

    return call


def run(*arguments):
    """Run it as a process of its own."""
    command = [sys.executable, "-m", "client.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_nothing_heavy_is_imported():
    script = "import sys, client.cli; client.cli.parser(); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"onnx", "torch", "flwr", "onnxruntime", "numpy", "typer", "rich"}


@pytest.mark.parametrize("command", ["enroll", "bench kernels", "info"])
def test_a_wrong_option_points_to_the_help_of_its_command(edge, command):
    said = f"flwr-edge {command}: unrecognized arguments: --wrong (see flwr-edge {command} --help)"
    assert edge(*command.split(), "--wrong") == (2, "", [said])


def commands(parser, words=()):
    """All commands, by their words."""
    yield words
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from commands(below, (*words, name))


@pytest.mark.parametrize("words", list(commands(cli.parser())), ids=" ".join)
def test_help_teaches_with_examples_as_wide_as_the_terminal(edge, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "200")
    wide = edge(*words, "--help")[1]
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = edge(*words, "--help")
    assert (code, err) == (0, [])
    assert "examples:\n  flwr-edge " in out or words in [("pause",), ("resume",)]
    assert max(map(len, out.splitlines())) <= 80
    _, rest = out.split("\n\n", 1)
    assert rest.split() == wide.split("\n\n", 1)[1].split()  # no word is broken
    assert "fleet.key" not in out  # init makes signing.pub


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ((), ["flwr-edge: ", "COMMAND"]),
        (("bench",), ["flwr-edge bench: ", "WHAT"]),
        (("inf",), ["inf", "info", "bench"]),
        (("info", "--format", "xml"), ["xml", "text", "json"]),
        (("bench", "kernels", "--fo", "json"), ["--fo"]),
        (("bench", "kernels", "--shapes", "4096"), ["--shapes", "'4096'", "11008x4096"]),
        (("bench", "kernels", "--shapes", "64x0"), ["--shapes", "'0'"]),
        (("bench", "kernels", "--shapes", "64x64,"), ["--shapes", "''"]),
        (("bench", "kernels", "--bits", "1,5"), ["--bits", "'5'", "ternary"]),
        (("bench", "kernels", "--groups", "16"), ["--groups", "'16'", "row"]),
        (("bench", "kernels", "--m", "-1"), ["--m"]),
        (("bench", "kernels", "--m", "1.5"), ["--m", "'1.5'"]),
        (("bench", "kernels", "--threads", "0"), ["--threads", "'0'"]),
        (("bench", "kernels", "--threads", "99999"), ["--threads", "'99999'"]),
        (("bench", "kernels", "--out", "no/such/folder.json"), ["--out", "no/such", "folder"]),
        (("bench", "kernels", "--out", "/tmp"), ["--out", "/tmp", "folder"]),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_2(edge, arguments, parts):
    code, out, err = edge(*arguments)
    assert (code, out, len(err)) == (2, "", 1)
    assert err[0].startswith("flwr-edge")
    assert "--help" in err[0]
    for part in parts:
        assert part in err[0]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("a.toml", ["k = 1: too small"]), 2, "flwr-edge: a.toml: k = 1: too small"),
        (RuntimeError("no luck"), 1, "flwr-edge: no luck"),
        (FileNotFoundError("lib.so is not there"), 1, "flwr-edge: lib.so is not there"),
        (OSError(28, "No space left on device", "f"), 1, "flwr-edge: f: No space left on device"),
        (MemoryError(), 1, "flwr-edge: out of memory"),
        (StoreError("s: a store of version 9"), 1, "flwr-edge: s: a store of version 9"),
        (
            sqlite3.OperationalError("database or disk is full"),
            1,
            "flwr-edge: the store: the disk is full",
        ),
        (sqlite3.DatabaseError("malformed"), 1, "flwr-edge: the store: malformed"),
        (RingError("a.ring: is no ring"), 1, "flwr-edge: a.ring: is no ring"),
        (KeyboardInterrupt(), 130, "flwr-edge: interrupted"),
    ],
)
def test_what_goes_wrong_is_a_line_and_an_exit_code(capsys, error, code, line):
    def command():
        raise error

    assert cli.guarded(command) == code
    assert capsys.readouterr().err == f"{line}\n"


def test_a_forced_instruction_set_that_is_none(monkeypatch):
    monkeypatch.setenv("FLWR_EDGE_ISA", "abacus")
    done = run("info")
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert "abacus" in line


def test_info(edge):
    code, out, err = edge("info", "--format", "json")
    assert (code, err) == (0, [])
    found = json.loads(out)
    assert {"LutMatMul", "LutConv1d", "LutSequential"} <= set(found["ops"])
    text = edge("info")[1]
    assert re.search(rf"^isa +{found['isa']}$", text, re.MULTILINE)
    assert re.search(r"^layout version +1$", text, re.MULTILINE)


def test_a_quick_bench_as_a_process():
    done = run(*TINY, "--threads", "1,2", "--format", "json")
    assert (done.returncode, done.stderr) == (0, "")
    report = KernelReport.model_validate_json(done.stdout, strict=True)
    assert {row.bits for row in report.rows} == {1, "ternary"}
    assert {row.threads for row in report.rows} == {1, 2}


@pytest.mark.parametrize("style", ["table", "csv", "markdown"])
def test_other_formats(edge, style):
    code, out, err = edge(*TINY, "--format", style)
    assert (code, err) == (0, [])
    assert "128x64" in out or "\n1,64,128,1,64," in out


def test_verbose_says_what_is_measured(edge):
    code, _, err = edge(*TINY, "--verbose")
    assert code == 0
    assert any(line.startswith("128x64, 1 rows") for line in err)


def test_out_is_written_whole_and_nothing_is_printed(edge, tmp_path):
    path = tmp_path / "kernels.json"
    path.write_text("old")
    code, out, err = edge(*TINY, "--format", "json", "--out", path)
    assert (code, out, err) == (0, "", [])
    KernelReport.model_validate_json(path.read_text())
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_that_results_are_written_to_stays(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.touch(0o600)
    link.symlink_to(target)
    output.emit("new", link)
    assert (target.read_text(), link.is_symlink()) == ("new", True)
    assert target.stat().st_mode & 0o777 == 0o600


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "kernels.json"
    path.write_text("old")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        output.emit("new", path)
    assert [each.read_text() for each in tmp_path.iterdir()] == ["old"]


def test_without_onnx_one_line_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "onnx.py").write_text("raise ImportError('no onnx')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = run(*TINY)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "flwr-edge[quantize]" in line
