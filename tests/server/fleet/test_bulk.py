"""Thousands at a time: a few statements for hundreds, in transactions that others come between."""

import io
import json
import os
import shutil
import threading

import pytest
from sqlalchemy import event, func, select
from sqlalchemy.orm import Session

from server.fleet import claims, devices, listing
from server.fleet.errors import Refusal
from server.fleet.keeper import Keeper
from server.fleet.registry import Audit, Certificate, Claim, Device, Key, Registry, Tag, audit
from server.transport.tables import DeviceRow
from tests.server.fleet.test_figures import fill


def counted(registry, change):
    """How many statements a change took."""
    said = []

    def note(_connection, _cursor, statement, *_):
        said.append(statement)

    event.listen(registry.engine, "before_cursor_execute", note)
    try:
        with registry.write("operator:tests") as write:
            change(write)
    finally:
        event.remove(registry.engine, "before_cursor_execute", note)
    return len(said)


def names(count):
    return [f"watch-{number}" for number in range(count)]


def columns(registry, *fields):
    with registry.read() as db:
        return {tuple(row) for row in db.execute(select(*fields).distinct())}


def test_many_are_revoked_by_few_statements(registry):
    fill(registry, 250)
    with registry.write("x") as write:
        write.db.add(
            Key(id="f" * 64, device="watch-0", state="pending", kind="ec", created=1, changed=1)
        )
    assert counted(registry, lambda write: devices.revoke(write, names(250), "lost")) < 20
    assert columns(registry, Device.state, Device.reason) == {("revoked", "lost")}
    assert columns(registry, DeviceRow.enrolled, DeviceRow.online) == {(False, False)}
    assert columns(registry, Key.state) == {("revoked",), ("rejected",)}
    assert columns(registry, Certificate.reason) == {("cessationOfOperation",)}
    assert columns(registry, Claim.revoked.is_not(None)) == {(True,)}
    with registry.read() as db:
        assert list(audit.faults(db)) == []
        rows = audit.newest(db, 500)
        kept = dict(db.execute(select(Device.id, Device.claim)).all())
    assert [row.action for row in rows] == ["device.revoke", "claim.revoke"] * 250
    assert [row.subject for row in rows[::2]] == names(250)
    assert [row.subject for row in rows[1::2]] == [kept[name] for name in names(250)]
    assert {row.detail for row in rows[::2]} == {'{"before": "accepted", "reason": "lost"}'}
    assert json.loads(rows[1].detail) == {"because": "watch-0", "used": 0}


def test_one_claim_of_many_is_revoked_once_for_the_first(registry):
    fill(registry, 4)
    with registry.write("x") as write:
        (shared,) = claims.create(write, claims.Terms(1, uses=9), "c" * 64)
        for row in write.db.scalars(select(Device)):
            row.claim = shared.id
        (bound,) = claims.create(write, claims.Terms(1, replaces=True), "c" * 64, ["watch-2"])
    with registry.write("x") as write:
        devices.revoke(write, ["watch-3", "watch-2"], "")
    with registry.read() as db:
        rows = [(row.subject, json.loads(row.detail).get("because")) for row in audit.newest(db, 4)]
    assert rows == [
        ("watch-3", None),
        (shared.id, "watch-3"),
        ("watch-2", None),
        (bound.id, "watch-2"),
    ]


def test_nothing_is_changed_where_one_cannot_be(registry):
    fill(registry, 3)
    with registry.write("x") as write:
        devices.revoke(write, ["watch-1"], "")
    with pytest.raises(Refusal, match="watch-1 is revoked already"), registry.write("x") as write:
        devices.revoke(write, names(3), "")
    assert columns(registry, Device.state) == {("accepted",), ("revoked",)}


def test_many_are_expected_by_few_statements(registry):
    fill(registry, 1)
    with registry.write("x") as write:
        devices.expect(write, "new-1", ["left"], "a" * 64)
        devices.revoke(write, ["watch-0"], "lost")
        devices.remove(write, ["watch-0"])
    them = [devices.Expected(f"new-{n}", ("pilot",)) for n in range(250)]
    them.append(devices.Expected("watch-0", ("pilot", "again"), "b" * 64))
    assert counted(registry, lambda write: devices.expect_all(write, them)) < 12
    with registry.read() as db:
        assert db.scalar(select(func.count()).where(Device.state == "expected")) == 251
        back, old = db.get_one(Device, "watch-0"), db.get_one(Device, "new-1")
        assert (back.reason, back.expected_key, [tag.tag for tag in back.tags]) == (
            None,
            "b" * 64,
            ["again", "pilot"],
        )
        assert (old.expected_key, [tag.tag for tag in old.tags]) == (None, ["left", "pilot"])
        assert list(audit.faults(db)) == []
    made = []
    ask = [one.name for one in them]
    took = counted(
        registry, lambda w: made.extend(claims.create(w, claims.Terms(1), "c" * 64, ask))
    )
    assert took < 12
    assert columns(registry, Claim.device) >= {(name,) for name in ask}
    assert len({str(claim) for claim in made}) == 251


@pytest.fixture
def fleet(made, migrated, tmp_path, monkeypatch):
    """A fleet of 25 devices, of which ten make a part."""
    root = tmp_path / "fleet"
    shutil.copytree(made, root)
    shutil.copy(migrated, root / "registry.sqlite")
    monkeypatch.setenv("FLWR_FLEET", str(root))
    monkeypatch.setattr(listing.parts, "__defaults__", (10,))
    with Registry(root / "registry.sqlite") as registry:
        fill(registry, 25)
        with registry.write("x") as write:
            write.db.add_all(Tag(device=name, tag="all") for name in names(25))
    return root


def standing(fleet, state):
    with Registry(fleet / "registry.sqlite") as registry, registry.read() as db:
        assert list(audit.faults(db)) == []
        return db.scalar(select(func.count()).select_from(Device).where(Device.state == state))


def interrupt(monkeypatch, what, at):
    """The Ctrl-C of someone who has waited long enough."""
    real, calls = getattr(devices, what), []

    def interrupted(*words, **options):
        calls.append(words)
        if len(calls) == at:
            raise KeyboardInterrupt
        return real(*words, **options)

    monkeypatch.setattr(devices, what, interrupted)


@pytest.mark.parametrize("how", [("--tag", "all"), names(25)])
def test_an_interrupted_revocation_says_how_far_it_came_and_goes_on(fleet, run, monkeypatch, how):
    told = []
    monkeypatch.setattr(Keeper, "apply", lambda self, changes: told.append(changes.revoked) or [])
    interrupt(monkeypatch, "revoke", 3)
    code, _, err = run("device", "revoke", *how, "--yes")
    assert code == 130
    assert "revoked 10 of 25" in err
    assert "ended early, revoked 20 of 25: run it again to go on" in err
    assert standing(fleet, "revoked") == 20
    assert [len(names) for names in told] == [20]
    monkeypatch.undo()
    monkeypatch.setenv("FLWR_FLEET", str(fleet))
    code, _, err = run("device", "revoke", *how, "--yes")
    assert (code, err) == (0, "revoked 5\n")
    assert standing(fleet, "revoked") == 25
    assert run("device", "revoke", "watch-1", "--yes")[0] == 1


def test_others_write_between_the_parts(fleet, run, monkeypatch):
    real, waits = devices.revoke, []

    def revoke(write, part, *words, **options):
        waits.append(len(part))
        return real(write, part, *words, **options)

    monkeypatch.setattr(devices, "revoke", revoke)
    assert run("device", "revoke", "--tag", "all", "--yes")[0] == 0
    assert waits == [10, 10, 5]


@pytest.fixture
def listed(tmp_path):
    file = tmp_path / "in.csv"
    file.write_text("device,tags\n" + "".join(f"new-{n},pilot\n" for n in range(25)))
    return str(file)


def test_an_interrupted_import_keeps_the_claims_that_it_made(
    fleet, run, listed, tmp_path, monkeypatch
):
    out = tmp_path / "claims.csv"
    interrupt(monkeypatch, "expect_all", 3)
    code, _, err = run("device", "import", listed, "--claims", str(out))
    assert (code, len(out.read_text().splitlines())) == (130, 21)
    assert "ended early, expecting 20 of 25" in err
    assert standing(fleet, "expected") == 20
    monkeypatch.undo()
    monkeypatch.setenv("FLWR_FLEET", str(fleet))
    code, _, err = run("device", "import", listed, "--claims", str(out))
    assert (code, "its claims cannot be shown again; name another" in err) == (1, True)
    assert len(out.read_text().splitlines()) == 21
    out = tmp_path / "others.csv"
    assert run("device", "import", listed, "--claims", str(out))[0] == 0
    assert len(out.read_text().splitlines()) == 26
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_claims_are_written_through_a_pipe(fleet, run, listed, tmp_path):
    pipe, read = tmp_path / "claims", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    assert run("device", "import", listed, "--claims", str(pipe))[0] == 0
    reader.join(5)
    assert len(read[0].splitlines()) == 26
    assert pipe.is_fifo()


@pytest.mark.parametrize("where", ["no/such/claims.csv", "."])
def test_an_import_whose_claims_cannot_be_written_changes_nothing(
    fleet, run, listed, tmp_path, where
):
    code, _, err = run("device", "import", listed, "--claims", str(tmp_path / where))
    assert code in (1, 2)
    assert str(tmp_path) in err
    assert standing(fleet, "expected") == 0


def test_claims_that_the_disk_has_no_room_for_are_not_made(
    fleet, run, listed, tmp_path, monkeypatch
):
    def full(_number):
        raise OSError(28, "No space left on device")

    real, count = os.fsync, columns_of(fleet)
    monkeypatch.setattr(os, "fsync", full)
    code, _, err = run("device", "import", listed, "--claims", str(tmp_path / "claims.csv"))
    monkeypatch.setattr(os, "fsync", real)
    assert (code, err) == (1, "flwr-fleet: No space left on device\n")
    assert columns_of(fleet) == count
    assert not (tmp_path / "claims.csv").exists()


def test_claims_that_were_not_committed_leave_no_file(fleet, run, listed, tmp_path):
    def full(_session):
        raise OSError(28, "No space left on device")

    event.listen(Session, "before_commit", full)
    code, _, err = run("device", "import", listed, "--claims", str(tmp_path / "claims.csv"))
    event.remove(Session, "before_commit", full)
    assert (code, err) == (1, "flwr-fleet: No space left on device\n")
    assert [path.name for path in tmp_path.iterdir() if "claims" in path.name] == []


def test_claims_of_a_part_that_was_not_committed_are_not_in_the_file(fleet, run, listed, tmp_path):
    commits = []

    def full(_session):
        commits.append(1)
        if len(commits) == 3:
            raise OSError(28, "No space left on device")

    event.listen(Session, "before_commit", full)
    out = tmp_path / "claims.csv"
    code, _, err = run("device", "import", listed, "--claims", str(out))
    event.remove(Session, "before_commit", full)
    assert (code, "ended early, expecting 20 of 25" in err) == (1, True)
    with Registry(fleet / "registry.sqlite") as registry, registry.read() as db:
        known = set(db.scalars(select(Claim.id)))
    named = [line.split(",")[1].partition(".")[0] for line in out.read_text().splitlines()[1:]]
    assert len(named) == 20
    assert all(any(id_ in claim for id_ in known) for claim in named)


class Small(io.FileIO):
    """A file on a disk that is soon full; no disk here can be made so small."""

    writes = 0

    def write(self, data):
        if self.writes == 2:
            raise OSError(28, "No space left on device")
        self.writes += 1
        return super().write(data)


def test_a_disk_that_fills_up_costs_no_claim_that_was_made(
    fleet, run, listed, tmp_path, monkeypatch
):
    real = os.fdopen

    def opened(number, mode="r", *more, **options):
        return io.BufferedWriter(Small(number, "wb")) if mode == "wb" else real(number, mode, *more)

    monkeypatch.setattr("schemas.new_file.os.fdopen", opened)
    out = tmp_path / "claims.csv"
    code, _, err = run("device", "import", listed, "--claims", str(out))
    monkeypatch.undo()
    assert (code, "ended early, expecting 20 of 25" in err) == (1, True)
    assert "No space left on device" in err
    with Registry(fleet / "registry.sqlite") as registry, registry.read() as db:
        known = set(db.scalars(select(Claim.id)))
    named = [line.split(",")[1] for line in out.read_text().splitlines()[1:]]
    assert len(named) == 20
    assert all(any(id_ in claim for id_ in known) for claim in named)


def columns_of(fleet):
    with Registry(fleet / "registry.sqlite") as registry, registry.read() as db:
        return [db.scalar(select(func.count()).select_from(t)) for t in (Device, Claim, Audit)]


def test_an_import_with_one_bad_name_among_the_last_changes_nothing(fleet, run, listed, tmp_path):
    good = (tmp_path / "in.csv").read_text()
    for bad, code in (("../x", 2), ("watch-3", 1)):
        (tmp_path / "in.csv").write_text(f"{good}{bad},\n")
        assert run("device", "import", listed)[0] == code
        assert standing(fleet, "expected") == 0
