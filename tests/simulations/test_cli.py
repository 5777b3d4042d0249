"""``flwr-sim`` as a user meets it: wrong input, Ctrl-C, kill -9."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import typer.main

from server.strategies.installed import strategies
from simulations import cli
from simulations import run as runs
from simulations.config import load
from simulations.exits import FAILED
from simulations.report.folder import RunFolder
from tests.processes import alive


@pytest.fixture
def refused(sim, simulation_file, tmp_path):
    """Run what must be refused before it leaves anything behind."""

    def call(*arguments, file=simulation_file, code=2):
        out = tmp_path / "out"
        ended, output, lines = sim("run", file, "--out", out, *arguments)
        assert (ended, output) == (code, "")
        assert all(line.startswith("flwr-sim: ") for line in lines), lines
        assert not out.exists()
        return [line.removeprefix("flwr-sim: ") for line in lines]

    return call


def sets(*overrides):
    return [part for override in overrides for part in ("--set", override)]


def test_a_missing_file(refused, tmp_path):
    path = tmp_path / "none.toml"
    assert refused(file=path) == [f"{path}: no such file"]


def test_wrong_toml(refused, simulation_file):
    simulation_file.write_text("name = \n[data")
    (said,) = refused()
    assert said.startswith(f"{simulation_file}: not TOML: ")


def test_every_problem_of_a_file_is_a_line(refused, simulation_file):
    text = simulation_file.read_text()
    text = text.replace("label_fraction = 0.2", "label_fraction = 2\nlabels = 0.1")
    simulation_file.write_text(text.replace('"ditto"', '"dito"'))
    said = refused(*sets("rounds=-1"))
    assert len(said) == 4
    assert all(line.startswith(f"{simulation_file}: ") for line in said)
    for part in ("data.labels = 0.1: unknown key; allowed here: ", "data.label_fraction = 2: "):
        assert len([line for line in said if part in line]) == 1


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["data.labels=3"], ["data.labels = 3: unknown key", "label_fraction"]),
        (["data.label_fraction=1.01"], ["data.label_fraction = 1.01", "less than or equal to 1"]),
        (["strategy=fedavgg"], ["strategy = 'fedavgg': no such strategy", "fedavg"]),
        (["strategies.fedavg.stepps=3"], ["strategies.fedavg.stepps = 3: unknown key", "steps"]),
        (["data.label_fraction=0", "baselines=[]"], ["label_fraction = 0", "fedavg", "above 0"]),
        (["data.source_persons=7"], ["data.source_persons = 7", "6 persons", "at most 5"]),
        (["data.unseen_persons=4"], ["data.unseen_persons = 4", "6 persons", "at most 5"]),
        (["cohort.size=4"], ["cohort.size = 4", "3 clients", "1 to 3"]),
        (["data.kind=npzz"], ["data.kind = 'npzz'", "npz"]),
        (["data.path=none.npz"], ["none.npz", "no such file"]),
    ],
)
def test_one_problem_is_one_line_that_names_file_key_value_and_what_is_allowed(
    refused, simulation_file, overrides, parts
):
    (said,) = refused(*sets(*overrides))
    assert said.startswith(f"{simulation_file}: ")
    for part in parts:
        assert part in said


def test_malformed_overrides(refused):
    assert refused(*sets("seed", "=1")) == [
        "--set: 'seed': expected key.path=value",
        "--set: '=1': expected key.path=value",
    ]


def one_person(arrays):
    rows = arrays["subject"] == 0
    return {k: arrays[k][rows] for k in ("X", "y", "subject")} | {"subjects": ["person A"]}


def with_nan(arrays):
    x = arrays["X"].copy()
    x[130, 4, 2] = np.nan
    return arrays | {"X": x}


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda a: a | {"subjects": [*a["subjects"], "Nobody"]}, ["'Nobody'", "no windows"]),
        (with_nan, ["window 130", "person B", "NaN"]),
        (one_person, ["1 person", "a source and a client"]),
        (lambda a: {k: v for k, v in a.items() if k != "y"}, ["y: missing"]),
        (lambda a: a | {"y": a["y"] * 0 - 1}, ["no window has a known class"]),
    ],
)
def test_recordings_that_cannot_be_used(refused, simulation_file, arrays, tmp_path, change, parts):
    np.savez(tmp_path / "bad.npz", **change(arrays))
    (said,) = refused(*sets("data.path=bad.npz"))
    assert said.startswith(f"{simulation_file}: ")
    for part in parts:
        assert part in said


def test_what_is_no_npz(refused, tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 and no more")
    (said,) = refused(*sets("data.path=bad.npz"))
    assert "bad.npz" in said


def test_a_folder_that_is_in_use_is_left_alone(sim, simulation_file, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    code, _, (said,) = sim("run", simulation_file, "--out", out)
    assert (code, [path.name for path in out.iterdir()]) == (1, ["thesis.txt"])
    assert f"{out}: is not empty" in said
    (tmp_path / "file").write_text("")
    code, _, (said,) = sim("run", simulation_file, "--out", tmp_path / "file")
    assert code == 1
    assert "is a file" in said


def test_bad_data_leave_a_folder_of_the_user_s_own_usable(sim, simulation_file, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for _ in range(2):  # the second time would find it not empty
        code, _, (said,) = sim("run", simulation_file, "--out", out, *sets("data.source_persons=9"))
        assert code == 2
        assert "data.source_persons = 9" in said


def test_nothing_to_resume(sim, simulation_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, (said,) = sim("run", simulation_file, "--resume")
    assert code == 1
    assert "no interrupted run named 'tiny'" in said
    for out, part in (("none", "no such folder"), (".", "no config.toml")):
        code, _, (said,) = sim("run", simulation_file, "--resume", "--out", out)
        assert code == 1
        assert part in said


def test_usage_errors_are_2_and_help_is_0(sim):
    assert sim("run")[0] == 2
    assert sim("fly")[0] == 2
    code, out, err = sim("--help")
    assert (code, err) == (0, [])
    assert "Exit codes" in out


def test_a_terminal_breaks_the_lines_of_help():
    group = typer.main.get_command(cli.app)
    for name in group.list_commands(None):
        *text, last = group.get_command(None, name).help.split("\n\n")
        assert "\n" not in "".join([*text, last]), name


def test_help_of_export_says_what_must_be_named(sim):
    text = " ".join(sim("export", "--help")[1].split())
    assert "Name the person, or --shared; and at least one of --out, --float and --windows" in text


def test_schema_and_strategies_are_for_programs_too(sim):
    code, out, err = sim("schema")
    assert (code, err) == (0, [])
    assert json.loads(out)["properties"]["name"]
    code, out, err = sim("strategies", "--format", "json")
    rows = {row["name"]: row for row in json.loads(out)}
    assert (code, err, rows.keys()) == (0, [], strategies().keys())
    assert rows["fedprox"]["parameters"]["mu"]["default"] == 0.1
    assert rows["fedavg"]["needs_labels"]
    assert json.loads(sim("strategies", "fedprox", "--format", "json")[1]) == [rows["fedprox"]]


def test_strategies_are_a_line_each_and_one_is_shown_whole(sim, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = sim("strategies")
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[0] for line in lines if line[0] != " "] == list(strategies())
    assert "mu = 0.1" not in out
    code, out, _ = sim("strategies", "semipfl")
    assert code == 0
    assert "reconstruction_steps = 400" in out
    assert "``" not in out
    assert all(line.startswith(("semipfl ", "  ")) for line in out.splitlines())
    assert max(map(len, out.splitlines())) <= 80
    code, out, (said,) = sim("strategies", "fedpro")
    assert (code, out) == (2, "")
    assert said.startswith("flwr-sim: strategies: 'fedpro': no such strategy; there are ")


WIDE = """
import numpy as np
from flwr.app import Array, ArrayRecord
from server.strategies.averaging import FedAvg
class Wide(FedAvg):
    kind = np.float64
    def aggregate_train(self, server_round, replies):
        made, metrics = super().aggregate_train(server_round, replies)
        return ArrayRecord({"weights": Array(made["weights"].numpy().astype(self.kind))}), metrics
class Whole(Wide):
    kind = np.int64
"""


def test_a_baseline_that_fails_has_a_row_of_dashes_and_the_exit_code_says_so(
    sim, simulation_file, installed, tmp_path
):
    (tmp_path / "wide_strategies.py").write_text(WIDE)
    installed("wide", "wide_strategies:Wide\nwhole = wide_strategies:Whole")
    folder = tmp_path / "run"
    baselines = 'baselines=["whole", "wide"]'
    code, out, lines = sim("run", simulation_file, "--set", baselines, "--out", folder)
    assert code == 1
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.split()}
    assert set(rows["whole"]) == {"–"}
    assert rows["wide"][:3] == rows["fedavg"][:3]  # float64 is cast: the same model
    assert lines[-1] == "flwr-sim: no result of whole; the report says why"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["failed"] == ["whole"]
    said = [note for note in summary["notes"] if "'whole' returned weights int64[" in note]
    assert len(said) == 1
    assert not summary["failures"]
    page = (folder / "report.html").read_text()
    assert '<tr><td class="warn">whole</td>' in page
    code, out, lines = sim("compare", folder, "--format", "json")
    assert (code, lines) == (0, [])
    row = json.loads(out)[-1]
    assert (row["strategy"], row["macro_f1"], row["problem"]) == ("whole", None, said[0])
    (row,) = json.loads(sim("list", folder, "--format", "json")[1])
    assert (row["state"], row["failed"]) == ("finished", ["whole"])
    arguments = ("--person", "person A", "--strategy", "whole", "--float", tmp_path / "w.onnx")
    code, _, lines = sim("export", folder, *arguments)
    assert (code, lines[-1]) == (
        1,
        f"flwr-sim: {folder}: whole came to no result in this run: {said[0]}",
    )


SWEEP = """
name = "grid"
base = "tiny.toml"
set = ["rounds=1"]
grids = [{label_fractions = [0.2], seeds = [3]}]
methods = [{label = "a", strategy = "whole"}, {label = "b", strategy = "source"}]
"""


@pytest.fixture
def sweep_file(simulation_file):
    path = simulation_file.with_name("grid.toml")
    path.write_text(SWEEP.replace("whole", "finetune"))
    return path


def test_a_cell_that_fails_ends_no_sweep(sim, sweep_file, installed, tmp_path):
    (tmp_path / "wide_strategies.py").write_text(WIDE)
    installed("whole", "wide_strategies:Whole")
    sweep_file.write_text(SWEEP)
    out = tmp_path / "out"
    for _ in range(2):  # it is tried again
        code, _, lines = sim("sweep", sweep_file, "--out", out)
        assert code == 1
        assert lines[-2].startswith("flwr-sim: a  f = 0.2  seed 3: strategy 'whole' returned ")
        assert lines[-1] == f"flwr-sim: no result of 1 cell; the rest is in {out / 'table.md'}"
        assert [line[:5] for line in (out / "table.md").read_text().splitlines()[2:]] == ["| b |"]


def test_a_sweep_s_table_is_markdown_on_a_narrow_console_too(sim, sweep_file, tmp_path):
    label = "a method of a long name, whose row is wider than a terminal of eighty columns"
    sweep_file.write_text(sweep_file.read_text().replace('label = "b"', f'label = "{label}"'))
    code, out, _ = sim("sweep", sweep_file, "--out", tmp_path / "out")
    assert code == 0
    table = (tmp_path / "out" / "table.md").read_text()
    assert label in table
    assert out.strip() == table.strip()


def test_a_sweep_leaves_a_run_s_folder_and_a_file_alone(sim, sweep_file, finished_run, tmp_path):
    before = sorted(finished_run.iterdir())
    code, _, (said,) = sim("sweep", sweep_file, "--out", finished_run)
    assert (code, sorted(finished_run.iterdir())) == (1, before)
    assert said == f"flwr-sim: {finished_run}: is a run's folder; a sweep needs one of its own"
    code, _, (said,) = sim("sweep", sweep_file, "--out", sweep_file)
    assert (code, said) == (1, f"flwr-sim: {sweep_file}: is a file; a sweep needs a folder")


def test_a_sweep_without_a_cell_is_refused(sim, sweep_file, tmp_path):
    text = sweep_file.read_text().replace("[0.2]", "[0.0]").replace('"source"', '"local"')
    sweep_file.write_text(text)
    code, out, (said,) = sim("sweep", sweep_file, "--out", tmp_path / "out")
    assert (code, out) == (2, "")
    assert said.startswith(f"flwr-sim: {sweep_file}: grids: no cell: every method needs labels")
    assert not (tmp_path / "out").exists()


def test_a_file_of_the_other_command_is_told_so_in_one_line(sim, refused, sweep_file):
    assert refused(file=sweep_file) == [f"{sweep_file}: a sweep file; flwr-sim sweep runs it"]
    code, _, (said,) = sim("sweep", sweep_file.with_name("tiny.toml"))
    assert code == 2
    assert "tiny.toml: no sweep file: it has no base, grids and methods" in said


@pytest.mark.parametrize(
    ("path", "part"), [("~nobody-here/x.npz", "no such user's home"), (r'"a\u0000b"', "null char")]
)
def test_a_path_that_none_can_be_is_one_line(sim, refused, sweep_file, tmp_path, path, part):
    (said,) = refused(*sets(f"data.path={path}"))
    assert "tiny.toml: data.path = " in said
    assert part in said
    text = SWEEP.replace("whole", "finetune").replace("rounds=1", "data.path=~nobody-here/x.npz")
    sweep_file.write_text(text)
    code, _, lines = sim("sweep", sweep_file, "--out", tmp_path / "grid")
    assert code == 2
    assert "no such user's home" in lines[-1]


def test_what_is_no_table_is_said_once(refused):
    assert len(refused(*sets("strategies.fedavg=3"))) == 1


def test_what_quantized_cannot_do_is_said_before_anything_is_done(sim, finished_run, tmp_path):
    code, _, (said,) = sim("quantized", finished_run, "--quantizer", "x")
    assert code == 2
    assert said.startswith("flwr-sim: quantized: --quantizer x: not installed; there are ")
    code, _, (said,) = sim("quantized", finished_run, "--out", tmp_path)
    assert (code, said) == (2, f"flwr-sim: quantized: --out {tmp_path}: is a folder; name a file")


@pytest.mark.parametrize("noise", ["inf", "nan", "11"])
def test_noise_is_a_number_that_devices_take(sim, finished_run, noise, tmp_path):
    words = ("--shared", "--out", tmp_path / "a.flwb", "--ranges", "federated", "--noise", noise)
    code, out, lines = sim("export", finished_run, *words)
    assert (code, out) == (2, "")
    assert "--noise" in lines[-1]


def test_a_folder_that_cannot_be_written_is_not_called_a_full_disk(
    sim, simulation_file, finished_run, tmp_path
):
    folder = tmp_path / "run"
    shutil.copytree(finished_run, folder)
    (folder / ".windows").write_text("in the way")
    (folder / "summary.json").unlink()
    code, _, lines = sim("run", simulation_file, "--out", folder, "--resume")
    assert code == 1
    assert "disk" not in lines[-1]


def test_a_main_strategy_that_fails_is_one_line(sim, simulation_file, installed, tmp_path):
    (tmp_path / "wide_strategies.py").write_text(WIDE)
    installed("whole", "wide_strategies:Whole")
    code, _, lines = sim("run", simulation_file, "--set", "strategy=whole", "--out", tmp_path / "r")
    assert code == 1
    assert lines[-1].startswith("flwr-sim: strategy 'whole' returned weights int64[")


TOLD = '''
from pydantic import Field
from server.strategies.averaging import FedAvg
class Told(FedAvg):
    """FedAvg as of [arxiv:1602.05629] and [/others]."""
    class Parameters(FedAvg.Parameters):
        beta: float = Field(description="No default.")
        layers: tuple[str, ...] = Field(default_factory=tuple)
'''


def test_what_somebody_else_says_of_a_strategy_is_shown_as_it_is(sim, installed, tmp_path):
    (tmp_path / "told_strategies.py").write_text(TOLD)
    installed("told", "told_strategies:Told")
    code, out, _ = sim("strategies", "told")
    assert code == 0
    assert "told  FedAvg as of [arxiv:1602.05629] and [/others].\n" in out
    assert re.search(r"^  beta must be given +No default\. *$", out, re.MULTILINE)
    (row,) = [
        row for row in json.loads(sim("strategies", "--format", "json")[1]) if row["name"] == "told"
    ]
    assert row["parameters"]["beta"] == {"default": None, "required": True, "about": "No default."}
    assert row["parameters"]["layers"]["default"] == []


def test_a_broken_strategy_of_somebody_else_is_named_and_ends_no_listing(
    sim, simulation_file, installed
):
    installed("broken", "broken_gone:X")
    for arguments in (["strategies"], ["strategies", "--format", "json"]):
        code, out, (said,) = sim(*arguments)
        assert code == 0
        assert "fedprox" in out
        assert said.startswith("broken: cannot be loaded: ModuleNotFoundError: ")
    code, out, _ = sim("schema")
    assert code == 0
    assert "broken" not in json.loads(out)["properties"]["strategy"]["enum"]
    code, _, (said,) = sim("run", simulation_file, "--set", "strategy=broken")
    assert code == 2
    assert "strategy = 'broken': cannot be loaded: ModuleNotFoundError" in said


@pytest.mark.parametrize("where", ["command", "imports"])
def test_ctrl_c_at_any_moment_is_130_and_one_line(sim, simulation_file, monkeypatch, where):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    if where == "command":
        monkeypatch.setattr("simulations.config.check", interrupt)
    else:
        monkeypatch.setattr(cli, "_guarded", interrupt)
    code, out, lines = sim("run", simulation_file)
    assert (code, out) == (130, "")
    assert [line for line in lines if line] == [f"flwr-sim: {cli._INTERRUPTED}"]


def test_what_the_system_refuses_is_one_line(capsys):
    def refuse():
        Path("/proc/1/nothing/here").write_text("")

    assert cli.guarded(refuse) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("flwr-sim: /proc/1/nothing/here: ")


def test_an_error_of_the_system_without_a_file_has_no_name_before_it(capsys):
    def refuse():
        raise OSError(28, "No space left on device")

    assert cli.guarded(refuse) == FAILED
    assert capsys.readouterr().err == "flwr-sim: No space left on device\n"


# From here on, real processes.

# As the installed script does; and whoever runs the tests in the background has Ctrl-C ignored.
SCRIPT = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from simulations.cli import main
main()
"""
COMMAND = [sys.executable, "-c", SCRIPT, "run"]


class Running:
    """A ``flwr-sim run`` of its own session, as a terminal would have it."""

    def __init__(self, file, out, *arguments):
        self.out = out
        self.process = subprocess.Popen(
            [*COMMAND, str(file), "--out", str(out), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_for(self, name):
        """Wait until the run has written a file."""
        end = time.monotonic() + 60
        while not (self.out / "checkpoint" / name).exists():
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end
            time.sleep(0.005)

    def children(self):
        """Processes that this one started, and that those did."""
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                fields = stat.read_text().rpartition(")")[2].split()
                parents[int(stat.parent.name)] = int(fields[1])
        found = {self.process.pid}
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return found - {self.process.pid}

    def end(self, sent):
        """Send a signal; exit code, output, and lines of standard error."""
        workers = self.children()
        self.process.send_signal(sent)
        out, err = self.process.communicate(timeout=30)
        end = time.monotonic() + 10
        while any(alive(pid) for pid in workers):
            assert time.monotonic() < end, "orphans"
            time.sleep(0.02)
        return self.process.returncode, out, err.splitlines(), workers


LONG = ("rounds=30", "evaluate_every=10", "source.steps=100", "seed=11")


@pytest.fixture
def unbroken(simulation_file, quiet, tmp_path):
    """What a run comes to that nobody interrupts."""

    def go(*overrides):
        folder = RunFolder.create("tiny", tmp_path / "unbroken")
        return runs.run(load(simulation_file, overrides), folder, quiet).summary

    return go


def numbers(summary):
    return [
        (one.strategy, one.rounds, one.macro_f1, one.client_updates, one.bytes_per_participation)
        for one in (summary, *summary.baselines)
    ]


def lines_of_rounds(folder):
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "rounds.parquet")
    names = [name for name in table.column_names if "second" not in name]
    return repr(table.select(names).to_pylist())


def test_killed_at_random_moments_a_run_ends_with_the_same_numbers(
    sim, simulation_file, unbroken, tmp_path, edge_cache
):
    expected = unbroken(*LONG)
    for path in edge_cache.rglob("source-*.safetensors"):
        path.unlink()  # so that the sources' training is done, and can be killed, again
    out, moment = tmp_path / "killed", random.Random()
    arguments = sets(*LONG)

    running = Running(simulation_file, out, *arguments)
    line = running.process.stderr.readline()
    assert "training on 2 source persons" in line
    time.sleep(moment.uniform(0, 0.05))
    code, *_ = running.end(signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert not list((out / "checkpoint").glob("*"))

    for name in ("fedavg", "pfedhn"):
        running = Running(simulation_file, out, "--resume", *arguments)
        running.wait_for(f"{name}.safetensors")
        time.sleep(moment.uniform(0, 0.4))
        code, _, _, workers = running.end(signal.SIGKILL)
        assert code == -signal.SIGKILL
        assert workers

    code, printed, _ = sim(
        "run", simulation_file, "--out", out, "--resume", "--format", "json", *arguments
    )
    assert code == 0
    summary = RunFolder.open(out).summary()
    assert json.loads(printed) == summary.model_dump(mode="json")
    assert numbers(summary) == numbers(expected)
    assert lines_of_rounds(out) == lines_of_rounds(tmp_path / "unbroken")
    assert not [p for p in out.rglob("*") if p.name.startswith(".")]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["sweep", "--help"], 0),
        (["list"], 1),
        (["compare", "x"], 1),
        (["run", "x"], 2),
        (["sweep", "x"], 2),
        (["run", "x", "--set", "y"], 2),
    ],
)
def test_who_asks_for_help_or_misspells_a_name_does_not_wait_for_torch(tmp_path, words, code):
    script = (
        "import atexit, sys;"
        "atexit.register(lambda: print('loaded', {'torch', 'flwr'} & set(sys.modules)));"
        "from simulations.cli import main; main()"
    )
    command = [sys.executable, "-c", script, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert done.stdout.endswith("loaded set()\n")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["schema"], ["list"], ["list", "--format", "json"], ["--help"]])
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path, words, unbuffered):
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "config.toml").write_text('name = "one"')
    script = f"from simulations.cli import main; import sys; sys.argv[1:] = {words}; main()"
    running = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
    )
    running.stdout.close()
    said = running.stderr.read()
    assert (running.wait(timeout=60), said) == (0, b"")


def test_help_tells_what_an_argument_is(sim):
    assert "A simulation file, e.g." in " ".join(sim("run", "--help")[1].split())


def test_ctrl_c_ends_with_one_line_no_orphans_and_can_be_resumed(simulation_file, quiet, tmp_path):
    overrides = ("baselines=[]", "rounds=40", "evaluate_every=40")
    out = tmp_path / "out"
    running = Running(simulation_file, out, *sets(*overrides))
    running.wait_for("fedavg.safetensors")
    code, printed, lines, workers = running.end(signal.SIGINT)
    assert (code, printed, len(workers)) == (130, "", 3)  # and the fork server
    ours = [line for line in lines if not re.match(r"training on|fedavg: round", line)]
    assert [line for line in ours if line] == [f"flwr-sim: {cli._INTERRUPTED}"]
    assert not (out / ".windows").exists()
    assert not RunFolder.open(out).finished
    summary = runs.run(load(simulation_file, overrides), RunFolder.open(out), quiet).summary
    assert (summary.rounds, summary.client_updates) == (40, 80)


def test_the_installed_command_says_one_line_and_nothing_else(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text('name = "a"\nstrategy = "fedavg"\nlabels = 1\n')
    command = [*COMMAND, str(file)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    (said,) = ended.stderr.splitlines()
    assert said.startswith(f"flwr-sim: {file}: labels = 1: unknown key; allowed here: ")
    assert list(tmp_path.iterdir()) == [file]
