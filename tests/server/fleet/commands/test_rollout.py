"""``flwr-fleet bundle`` and ``rollout`` as an operator types them."""

import datetime as dt
import json
import os
import subprocess
import sys

import pytest

from schemas.signing import new_key
from server import cli
from server.fleet import alone, quarantine
from server.fleet.commands import bundle as bundle_commands
from server.fleet.commands import rollout as rollout_commands
from server.fleet.commands.options import width
from server.fleet.registry import Registry, Rollout, RolloutDevice, RolloutGroup
from server.transport.tables import DeviceRow
from tests.client import orders, small_models
from tests.server.fleet import folders

SERVING = alone.serving


@pytest.fixture
def fleet(tmp_path, migrated, monkeypatch):
    folder = folders.made(tmp_path / "fleet", migrated, "abcdefghij")
    monkeypatch.setenv("FLWR_FLEET", str(folder.root))
    monkeypatch.setattr(bundle_commands, "_key", lambda _: orders.KEY)
    monkeypatch.setattr(alone, "serving", lambda _: "pid 7 on here")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def run(fleet, capsys):
    """Run a command; its exit code, output and errors."""

    def go(*words):
        with pytest.raises(SystemExit) as ended:
            cli.main([str(word) for word in words])
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    return go


@pytest.fixture
def walk(fleet, tmp_path):
    """A published bundle, walk@1; its hash."""
    return folders.published(fleet, orders.made(tmp_path / "walk.flwb", name="walk"), "walk")


def test_a_bundle_is_published_once(fleet, run, tmp_path):
    orders.made(tmp_path / "walk.flwb", name="walk")
    code, out, _ = run("bundle", "publish", "walk.flwb", "--format", "json")
    assert code == 0
    walk = json.loads(out)["id"]
    assert (fleet.bundles / f"{walk}.flwb").read_bytes() == (tmp_path / "walk.flwb").read_bytes()
    code, out, err = run("bundle", "publish", "walk.flwb")
    assert (code, out) == (0, f"was published before: walk@1  {walk}\n")
    assert "next: flwr-fleet rollout create --bundle walk@1 --group rest\n" in err
    assert "one person's own: --group devices=DEVICE" in err  # and to nobody else
    orders.made(tmp_path / "walk.flwb", 1, name="walk")
    assert "published walk@2" in run("bundle", "publish", "walk.flwb")[1]
    orders.made(tmp_path / "walk.flwb", 2, name="walk")
    code, _, err = run("bundle", "publish", "walk.flwb", "--version", "1")
    assert (code, f"walk@1 is the bundle {walk[:12]}…; say --version" in err) == (1, True)
    rows = json.loads(run("bundle", "list", "--format", "json")[1])
    assert [row["version"] for row in rows] == ["2", "1"]
    assert "walk@2" in run("bundle", "list")[1]
    shown = run("bundle", "show", walk[:8])[1]
    assert "activity: rest, walk, run, sit" in shown
    assert run("bundle", "show", "run")[0] == 3
    assert bundle_commands.complete("walk@") == ["walk@2", "walk@1"]


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_bytes(b"x")])
def test_publishing_again_puts_a_spoilt_file_back(fleet, run, tmp_path, spoil):
    """The server and doctor advise it, of a bundle that cannot be served any more."""
    data = orders.made(tmp_path / "walk.flwb", name="walk")
    run("bundle", "publish", "walk.flwb")
    (kept,) = fleet.bundles.iterdir()
    spoil(kept)
    code, out, err = run("bundle", "publish", "walk.flwb", "--format", "json")
    assert (code, json.loads(out)["new"], json.loads(out)["mended"]) == (0, False, True)
    assert "it is whole again" in err
    assert kept.read_bytes() == data
    assert "whole again" not in run("bundle", "publish", "walk.flwb")[2]
    assert "bundle.mend" in run("audit", "show")[1]


def test_each_bundle_of_a_personal_rollout_was_rolled_out(fleet, run, tmp_path):
    for number, name in enumerate("abc"):
        orders.made(tmp_path / f"{name}.flwb", number, name="walk")
        run("bundle", "publish", f"{name}.flwb", "--device", name)
    create = ("rollout", "create", "--bundle", "walk", "--personal", "--yes")
    number = run(*create, "--group", "devices=a,b")[1].strip()
    orders.made(tmp_path / "a.flwb", 9, name="walk")
    run("bundle", "publish", "a.flwb", "--device", "a")  # later: it was in none
    rows = json.loads(run("bundle", "list", "--format", "json")[1])
    counted = {(row["device"], row["version"]): row["rollouts"] for row in rows}
    assert counted == {("a", "1-a"): 1, ("b", "1-b"): 1, ("c", "1-c"): 0, ("a", "2-a"): 0}
    assert number in run("bundle", "show", "walk@1-b")[1]
    assert number not in run("bundle", "show", "walk@2-a")[1]


def test_bad_bundles_are_refused_and_nothing_is_kept(fleet, run, tmp_path):
    good = orders.made(tmp_path / "good.flwb")
    cases = {
        "is not signed; --sign signs it": orders.made(tmp_path / "a", key=None),
        "not of the fleet's key": orders.made(tmp_path / "b", key=new_key()),
        "its bytes were altered": good[:-3] + bytes([good[-3] ^ 1]) + good[-2:],
        "expected b'FLWRBNDL'": b"x" * 100,
        "format 7; this flwr-edge reads 1": good[:8] + b"\7" + good[9:],
        "truncated": good[:60],
    }
    for said, data in cases.items():
        (tmp_path / "bad.flwb").write_bytes(data)
        code, _, err = run("bundle", "publish", "bad.flwb")
        assert (code, "bad.flwb: " in err) == (2, True), err
        assert said in err or said == "truncated", err
    assert run("bundle", "publish", "none.flwb")[0] == 2
    assert run("bundle", "publish", "good.flwb", "--device", "z")[0] == 1
    assert not list(fleet.bundles.iterdir())
    assert run("bundle", "list")[1] == "none; flwr-fleet bundle publish FILE\n"


def test_signed_where_asked_and_a_difference_after_its_base(fleet, run, tmp_path):
    shared = tmp_path / "shared.flwb"
    orders.made(shared, key=None, model=small_models.codes(), name="shared")
    code, out, _ = run("bundle", "publish", shared, "--sign", "--format", "json")
    assert code == 0
    signed = fleet.bundles / f"{json.loads(out)['id']}.flwb"
    delta = tmp_path / "ann.flwb"
    orders.made(delta, model=small_models.codes(spread=1), base=signed, name="ann")
    code, _, err = run("bundle", "publish", delta, "--device", "a")
    assert (code, err.splitlines()[1:]) == (
        0,
        ["next: flwr-fleet rollout create --bundle ann@1-a --group devices=a"],
    )
    other = tmp_path / "other.flwb"
    orders.made(other, model=small_models.codes(spread=1), base=shared)
    code, _, err = run("bundle", "publish", other)
    assert (code, "publish that first" in err) == (2, True)


def test_a_folder_of_everybodys_own(fleet, run, tmp_path):
    folder = tmp_path / "walk"
    folder.mkdir()
    assert run("bundle", "publish", folder)[0] == 2
    for number, name in enumerate("ab"):
        orders.made(folder / f"{name}.flwb", number, name=f"person {name}")
    (folder / "c.flwb").write_bytes(b"x" * 100)
    orders.made(folder / "zoe.flwb", 2)
    code, out, err = run("bundle", "publish", folder)
    assert code == 1
    assert [line.split()[0] for line in out.splitlines()] == ["a", "b"]
    assert "c.flwb: is no bundle" in err
    assert "no device zoe" in err
    assert "2 of 4 were refused; the others are here" in err
    (folder / "c.flwb").unlink()
    (folder / "zoe.flwb").unlink()
    assert "create --bundle walk --personal" in run("bundle", "publish", folder)[2]
    create = ("rollout", "create", "--bundle", "walk", "--personal", "--group", "rest", "--yes")
    code, out, err = run(*create)
    assert (code, "group rest: 2 devices" in err) == (0, True)
    assert "of walk, each device its own: running" in run("rollout", "show", out.strip())[1]
    rows = json.loads(run("bundle", "list", "--format", "json")[1])
    assert sorted(row["version"] for row in rows) == ["1-a", "1-b"]


def test_create_asks_shows_and_does(fleet, run, walk):
    groups = ("--group", "tag=beta", "--group", "30%", "--group", "rest")
    code, out, err = run("rollout", "create", "--bundle", "walk", *groups)
    assert code == 4
    assert "group tag=beta: 1 devices, a" in err
    assert "roll walk out: 10 devices" in err
    assert "say --yes" in err
    code, out, err = run("rollout", "create", "--bundle", "walk", *groups, "--dry-run")
    assert (code, out, "nothing was changed" in err) == (0, "", True)
    assert json.loads(run("rollout", "list", "--format", "json")[1]) == []
    wanted = ("--success", "0.9", "--errors", "0.05", "--latency-ms", "2", "--days", "7", "--yes")
    code, out, err = run("rollout", "create", "--bundle", "walk", *groups, *wanted)
    assert code == 0
    number = out.strip()
    assert f"next: flwr-fleet rollout show {number} --watch" in err
    shown = json.loads(run("rollout", "show", number, "--format", "json")[1])
    assert [group["waiting"] for group in shown["groups"]] == [1, 3, 6]
    assert shown["plan"]["order"]["latency_us"] == 2000
    assert shown["plan"]["deadline"] == 7 * 86_400
    (listed,) = json.loads(run("rollout", "list", "--format", "json")[1])
    (bundle,) = json.loads(run("bundle", "list", "--format", "json")[1])
    times = [shown["created"], shown["changed"], listed["created"], bundle["published"]]
    for at in (*times, shown["plan"]["order"]["published"]):
        assert dt.datetime.fromisoformat(at).utcoffset() == dt.timedelta(0)
    text = run("rollout", "show", number)[1]
    assert f"roll-out {number} of walk@1: running" in text
    assert "3 devices, 3 waiting" in text
    assert rollout_commands.complete(number[:2]) == [number]
    assert number in run("rollout", "list")[1]
    code, _, err = run("rollout", "create", "--bundle", "walk", "--group", "rest", "--yes")
    assert (code, f"in roll-out {number}, which is not over" in err) == (1, True)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("--bundle", "walk", "--group", "beta"), 2, "'beta'; expected tag=TAG"),
        (("--bundle", "run", "--group", "rest"), 3, "no bundle run; see flwr-fleet bundle list"),
        (("--bundle", "walk", "--group", "devices=z"), 3, "no accepted device z"),
        (("--bundle", "walk", "--group", "rest", "--success", "2"), 2, "2.0 is not in the range"),
    ],
)
def test_wrong_words_are_refused_by_name(run, walk, words, code, says):
    found, _, err = run("rollout", "create", *words, "--yes")
    assert (found, says in err) == (code, True), err


def test_all_that_is_out_of_range_is_said_before_anything_else(run, walk):
    """One line an option: its name, the value, what is allowed."""
    wrong = {
        "--success": ("nan", "0 to 1"),
        "--errors": ("-0.1", "0 to 1"),
        "--days": ("inf", "0.001 to 365"),
        "--at-once": ("0", "1 to 10000"),
        "--predictions": ("99999999999", "0 to 1000000"),
        "--minutes": ("inf", "0 to 43200"),
        "--latency-ms": ("-1.0", "0.001 to 3600000"),
    }
    words = [word for option, (value, _) in wrong.items() for word in (option, value)]
    create = ("rollout", "create", "--bundle", "walk", "--group", "rest")
    code, out, err = run(*create, *words, "--yes")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        f"flwr-fleet: rollout create: {option}: {value} is not in the range {allowed}"
        for option, (value, allowed) in wrong.items()
    ]


def test_the_ends_of_each_range_are_taken(run, walk):
    least = ("--success", "0", "--errors", "0", "--days", "0.001", "--at-once", "1")
    least += ("--predictions", "0", "--minutes", "0", "--latency-ms", "0.001")
    most = ("--success", "1", "--errors", "1", "--days", "365", "--at-once", "10000")
    most += ("--predictions", "1000000", "--minutes", "43200", "--latency-ms", "3600000")
    for words in (least, most):
        create = ("rollout", "create", "--bundle", "walk", "--group", "rest")
        code, out, err = run(*create, *words, "--yes")
        assert code == 0, err
        assert run("rollout", "abort", out.strip(), "--yes")[0] == 0


def test_a_state_that_there_is_not_is_refused(run, walk):
    number = run("rollout", "create", "--bundle", "walk", "--group", "rest", "--yes")[1].strip()
    code, out, err = run("rollout", "show", number, "--devices", "sucess")
    assert (code, out) == (2, "")
    assert "--devices: 'sucess': no such state; there are waiting, offered, testing, succ" in err


def test_a_watch_ends_with_its_reader(fleet, run, walk):
    number = run("rollout", "create", "--bundle", "walk", "--group", "rest", "--yes")[1].strip()
    words = [sys.executable, "-c", "from server.cli import main; main()"]
    words += ["rollout", "show", number, "--watch"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline().startswith(b"roll-out ")
        process.stdout.close()
        try:
            assert process.wait(60) == 0  # though the roll-out goes on, and nothing changes
        finally:
            process.kill()
        assert process.stderr.read() == b""


def test_a_watch_ends_where_nobody_reads_its_first_words(fleet, run, walk):
    number = run("rollout", "create", "--bundle", "walk", "--group", "rest", "--yes")[1].strip()
    words = [sys.executable, "-c", "from server.cli import main; main()"]
    words += ["rollout", "show", number, "--watch"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_row_has_120_columns_and_names_of_all_scripts_line_up(fleet, run, walk, tmp_path):
    for path, names in (("größe.txt", "a b"), ("デバイス.txt", "c"), (f"{'x' * 200}.txt", "d")):
        (tmp_path / path).write_text(names.replace(" ", "\n"))
    groups = ("file=größe.txt", "file=デバイス.txt", f"file={'x' * 200}.txt", "rest")
    words = [word for group in groups for word in ("--group", group)]
    number = run("rollout", "create", "--bundle", "walk", *words, "--yes")[1].strip()
    rows = run("rollout", "show", number)[1].splitlines()[3:]
    assert len(rows) == 5
    assert max(map(width, rows)) <= 120
    bars = {width(row[: row.index("·")]) for row in rows[1:]}
    assert bars == {width(rows[0][: rows[0].index("PROGRESS")])}
    assert rows[3].startswith("file=xxxxxxxxxx…xxx")


def test_what_changes_is_written_over_what_was_shown(monkeypatch):
    monkeypatch.setattr(rollout_commands.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "10")
    over = rollout_commands._over
    assert over("") == ""
    assert over("a") == "\033[1A\033[J"
    assert over("a\n\nc") == "\033[3A\033[J"
    assert over(f"{'x' * 10}\n{'x' * 11}\n{'デ' * 6}") == "\033[5A\033[J"


def test_pause_resume_abort(fleet, run, walk):
    create = ("rollout", "create", "--bundle", "walk", "--group", "rest", "--yes")
    number = run(*create)[1].strip()
    assert run("rollout", "pause", number)[2] == "paused\n"
    assert run("rollout", "pause", number)[2] == "was paused already\n"
    assert run("rollout", "resume", number)[2] == "goes on\n"
    with Registry(fleet.root / "registry.sqlite") as registry, registry.write("test") as tx:
        for name, state in (("a", "testing"), ("b", "succeeded"), ("c", "failed")):
            row = tx.db.get(RolloutDevice, (number, name))
            row.state, row.reason = state, "too slow" if state == "failed" else None
    code, _, err = run("rollout", "abort", number, "--roll-back", "--dry-run")
    assert code == 0
    assert "7 devices that wait get nothing; 1 are recalled" in err
    assert f"would abort roll-out {number} (running); roll back, of 1: 9 devices" in err
    assert run("rollout", "abort", number)[0] == 4
    assert run("rollout", "abort", number, "--yes")[2].endswith("aborted\n")
    assert "nothing to do: it is aborted" in run("rollout", "abort", number, "--yes")[2]
    assert run("rollout", "pause", number)[2].endswith("it was aborted; make another one\n")
    text = run("rollout", "show", number, "--devices", "failed")[1]
    assert "1 x too slow (as c)\n\nc\n" in text
    assert run("rollout", "abort", "x", "--yes")[0] == 3


def test_one_that_stopped_is_exit_code_5(fleet, run, walk):
    number = run("rollout", "create", "--bundle", "walk", "--group", "rest", "--yes")[1].strip()
    with Registry(fleet.root / "registry.sqlite") as registry, registry.write("test") as tx:
        row = tx.db.get(Rollout, number)
        row.state, row.reason = "failed", "group rest: 3 of 10 devices failed; 5 % may"
    code, out, err = run("rollout", "show", number, "--watch")
    assert code == 5
    assert "group rest: 3 of 10 devices failed" in out
    assert f"roll-out {number} stopped" in err


def test_help_teaches(run):
    for words in (("bundle", "publish"), ("rollout", "create"), ("rollout", "abort")):
        code, out, _ = run(*words, "--help")
        assert (code, "Example: flwr-fleet" in out) == (0, True)


def test_show_says_whom_it_waits_for_and_that_nobody_serves(fleet, run, walk, monkeypatch):
    number = run(
        *("rollout", "create", "--bundle", "walk", "--yes"),
        *("--group", "devices=a,b,c", "--group", "rest"),
    )[1].strip()
    with Registry(fleet.root / "registry.sqlite") as registry, registry.write("test") as tx:
        tx.db.get(RolloutGroup, (number, 0)).state = "running"
        tx.db.get(RolloutDevice, (number, "c")).state = "testing"
        tx.db.get(DeviceRow, "b").online = True
        tx.db.get(DeviceRow, "c").online = True
        quarantine.by_hand(tx, ["c"], "", 0)
    code, out, _ = run("rollout", "show", number)
    last = ["waits for 1 that is off (as a)", "waits for 1 that is quarantined (as c)"]
    assert (code, out.splitlines()[-2:]) == (0, last)
    said = json.loads(run("rollout", "show", number, "--format", "json")[1])
    assert said["served_by"] == "pid 7 on here"
    assert said["waits"][0] == {"why": "off", "devices": 1, "for_example": "a"}
    monkeypatch.setattr(alone, "serving", SERVING)
    out = run("rollout", "show", number)[1]
    assert out.endswith("nothing happens: nobody runs flwr-fleet serve on this fleet\n")
    run("rollout", "abort", number, "--yes")
    with Registry(fleet.root / "registry.sqlite") as registry, registry.write("test") as tx:
        tx.db.get(RolloutDevice, (number, "c")).state = "aborted"
    assert "serve" not in run("rollout", "show", number)[1]  # it is over


def test_who_has_no_bundle_of_its_own_is_told_so(fleet, run, tmp_path):
    folder = tmp_path / "walk"
    folder.mkdir()
    for number, name in enumerate("ab"):
        orders.made(folder / f"{name}.flwb", number, name=f"person {name}")
    assert run("bundle", "publish", folder)[0] == 0
    create = ("rollout", "create", "--bundle", "walk", "--dry-run")
    code, _, err = run(*create, "--personal", "--group", "devices=a,c")
    assert (code, "no accepted device c that has a bundle walk of its own" in err) == (3, True)
    code, _, err = run(*create, "--group", "rest")
    assert code == 0
    assert "b's own, and goes to it alone; --personal gives each device its own" in err
    assert "alone" not in run(*create, "--personal", "--group", "rest")[2]
