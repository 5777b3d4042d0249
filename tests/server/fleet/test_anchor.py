"""What is noted of the audit log: torn lines, full disks, and a file that stays short."""

import errno
import io
import json

import pytest

from schemas.base import ConfigError
from server.cli import main
from server.fleet import anchor, hooks
from server.fleet.anchor import anchors, note, thin
from server.fleet.registry import Registry, audit
from server.fleet.registry.audit import Head

DAY = 86_400.0


def head(number):
    return Head(number=number, hash=f"{number:064x}")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.anchor"


def noted(path, *numbers):
    for number in numbers:
        note(path, head(number))
    return path.read_bytes()


def test_a_line_that_a_power_cut_tore_is_no_line_and_nothing_is_written_behind_it(path):
    whole = noted(path, 5, 12)
    for cut in range(1, len(whole.splitlines()[-1]) + 1):
        path.write_bytes(whole[:-cut])
        assert set(anchors(path)) == {5}
        assert noted(path, 12) == whole
        path.write_bytes(whole[:-cut])
        noted(path, 13)
        assert anchors(path) == {5: head(5).hash, 13: head(13).hash}


def test_a_block_of_zeros_that_a_power_cut_left_is_no_line(path):
    whole = noted(path, 5)
    path.write_bytes(whole + bytes(3 * anchor._TAIL))
    assert set(anchors(path)) == {5}
    assert noted(path, 5) == whole
    path.write_bytes(bytes(3 * anchor._TAIL))
    assert noted(path, 5) == whole


def test_a_line_that_a_full_disk_took_half_of_is_cut_back(path, monkeypatch):
    whole = noted(path, 5)

    class Full(io.FileIO):
        def write(self, data):
            if len(data) < 20:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data[:60])

    monkeypatch.setattr(type(path), "open", lambda self, mode, buffering: Full(self, mode))
    with pytest.raises(OSError, match="No space left"):
        note(path, head(12))
    monkeypatch.undo()
    assert path.read_bytes() == whole
    noted(path, 12)
    assert set(anchors(path)) == {5, 12}


def test_only_the_end_of_the_file_is_read(path, monkeypatch):
    path.write_bytes(b"".join(b"%d %064x\n" % (number, number) for number in range(1, 20_001)))
    read = []

    class Counting(io.FileIO):
        def read(self, size=-1):
            data = super().read(size)
            read.append(len(data))
            return data

    monkeypatch.setattr(type(path), "open", lambda self, mode, buffering: Counting(self, mode))
    note(path, head(20_000))
    note(path, head(20_001))
    monkeypatch.undo()
    assert sum(read) <= 2 * anchor._TAIL
    assert list(anchors(path))[-2:] == [20_000, 20_001]


def test_what_is_no_line_is_said_with_its_number(path):
    path.write_bytes(noted(path, 5) + b"6 short\n" + b"7 " + b"0" * 64 + b"\n")
    with pytest.raises(ConfigError, match="line 2: expected NUMBER HASH"):
        anchors(path)


def test_what_was_noted_first_of_a_row_counts(path):
    """Else who writes the log anew would only have to let it be noted once more."""
    noted(path, 5)
    note(path, Head(number=5, hash="f" * 64))
    assert anchors(path) == {5: head(5).hash}


@pytest.fixture
def log(registry, clock, path, monkeypatch):
    """A log of 40 rows, four a day, each noted."""
    monkeypatch.setattr(anchor, "_LATEST", 8)
    for _ in range(40):
        with registry.write("x") as write:
            write.audit("a", "b")
        with registry.read() as db:
            note(path, audit.head(db))
        clock.now += DAY / 4
    return registry


def thinned(path, registry):
    with registry.read() as db:
        thin(path, db)
        return anchors(path), list(audit.faults(db, anchors(path)))


def test_old_lines_are_thinned_to_one_a_day(path, log):
    before = anchors(path)
    after, faults = thinned(path, log)
    assert faults == []
    assert after.items() <= before.items()
    assert list(after)[-8:] == list(before)[-8:]
    assert 8 <= len(after) - 8 <= 9
    assert thinned(path, log)[0] == after


@pytest.mark.parametrize(
    "tamper",
    [
        "UPDATE audit SET actor = 'eve' WHERE number = 3",
        "DELETE FROM audit WHERE number > 30",
        "DELETE FROM audit WHERE number = 17",
    ],
)
def test_a_line_that_is_evidence_is_never_taken_out(path, log, tamper):
    with log.engine.begin() as db:
        db.exec_driver_sql(tamper)
    before = anchors(path)
    after, faults = thinned(path, log)
    assert after == before
    assert faults


def test_a_log_written_anew_is_found_after_thinning(path, log):
    thinned(path, log)
    with log.engine.begin() as db:
        db.exec_driver_sql("DELETE FROM audit WHERE number >= 2")
    for _ in range(60):
        with log.write("x") as write:
            write.audit("a", "forged")
    with log.read() as db:
        note(path, audit.head(db))
    assert any("not the row that was noted" in line for line in thinned(path, log)[1])


def test_verify_thins_and_says_nothing_of_a_torn_line(
    made, migrated, tmp_path, monkeypatch, capsys
):
    import shutil

    root = tmp_path / "fleet"
    shutil.copytree(made, root)
    shutil.copy(migrated, root / "registry.sqlite")
    monkeypatch.setattr(anchor, "_LATEST", 4)
    path = root / "audit.anchor"
    with Registry(root / "registry.sqlite") as registry:
        for _ in range(20):
            with registry.write("x") as write:
                write.audit("a", "b")
            with registry.read() as db:
                note(path, audit.head(db))
    with path.open("ab") as file:
        file.write(b"21 abc")
    with pytest.raises(SystemExit) as ended:
        main(["audit", "verify", "--fleet", str(root), "--format", "json"])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out)["faults"] == []
    assert len(anchors(path)) in (5, 6)  # two, where midnight was between


def test_a_server_that_runs_for_long_thins_once_a_day(keeper, clock, monkeypatch):
    monkeypatch.setattr(anchor, "_LATEST", 20)
    monkeypatch.setattr(hooks, "tick", lambda *_: [])
    thins: list[float] = []
    do = anchor.thin
    monkeypatch.setattr(anchor, "thin", lambda *all_: (thins.append(clock.now), do(*all_)))
    path, most, began = keeper.folder.anchor, 0, clock.now
    for hour in range(5 * 24):
        clock.now = began + 3600 * hour
        with keeper.registry.write("x") as write:
            write.audit("a", "b")
        keeper.tick()
        most = max(most, len(anchors(path)))
    assert thins == [began + DAY * day for day in range(5)]
    assert most < 80  # of 120 and more
    with keeper.registry.read() as db:
        assert not list(audit.faults(db, anchors(path)))
    clock.now = began - DAY  # a clock that was set back keeps it from nothing
    keeper.tick()
    assert thins[-1] == clock.now


def test_notes_that_cannot_be_thinned_are_told_of_once_a_day(keeper, monkeypatch, caplog):
    def fails(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(anchor, "thin", fails)
    monkeypatch.setattr(hooks, "tick", lambda *_: [])
    for _ in range(3):
        keeper.tick()
    assert caplog.text.count("audit.anchor: cannot be thinned: [Errno 28] No space left") == 1
