import json

import pytest
from sqlalchemy import delete, select, text, update

from server.fleet.anchor import anchors, note
from server.fleet.registry import Audit, Registry, audit


@pytest.fixture
def log(registry, clock):
    """A registry with five rows."""
    for number in range(5):
        with registry.write("operator:ann") as write:
            write.audit("device.approve", f"watch-{number}", key="ab" * 4)
        clock.now += 1.25
    return registry


def faults(registry, noted=None):
    with registry.read() as db:
        return list(audit.faults(db, noted))


def test_rows_are_chained_in_the_order_written(log):
    assert faults(log) == []
    with log.read() as db:
        rows = list(db.scalars(select(Audit).order_by(Audit.number)))
        assert audit.head(db) == audit.Head(number=5, hash=rows[-1].hash)
        assert [row.subject for row in audit.newest(db, 2)] == ["watch-3", "watch-4"]
        assert [row.number for row in audit.newest(db, 9, subject="watch-2")] == [3]
        assert audit.newest(db, 9, action="device%") == []
    assert [row.previous for row in rows] == [audit.FIRST, *(row.hash for row in rows[:-1])]


@pytest.mark.parametrize("field", ["actor", "action", "subject", "detail", "previous", "hash"])
def test_a_changed_row_is_found(log, field):
    with log.engine.begin() as db:
        db.execute(update(Audit).where(Audit.number == 3).values({field: "x" * 5}))
    assert any("row 3" in line for line in faults(log))


def test_a_changed_time_is_found(log):
    with log.engine.begin() as db:
        db.execute(update(Audit).where(Audit.number == 3).values(at=Audit.at + 0.001))
    assert faults(log) == ["row 3 (device.approve watch-2) was changed"]


def test_a_removed_row_is_found(log):
    with log.engine.begin() as db:
        db.execute(delete(Audit).where(Audit.number == 3))
    assert faults(log)[0] == "row 3 is missing: row 4 follows row 2"


def test_swapped_rows_are_found(log):
    with log.engine.begin() as db:
        for old, new in ((2, 99), (4, 2), (99, 4)):
            db.execute(update(Audit).where(Audit.number == old).values(number=new))
    assert len(faults(log)) >= 2


def test_a_log_that_was_cut_off_or_made_anew_is_found_by_what_was_noted(log, tmp_path):
    path = tmp_path / "anchor"
    with log.read() as db:
        head = audit.head(db)
    note(path, head)
    note(path, head)
    assert anchors(path) == {5: head.hash}
    assert faults(log, anchors(path)) == []
    with log.engine.begin() as db:
        db.execute(delete(Audit).where(Audit.number >= 4))
    assert faults(log) == []
    (line,) = faults(log, anchors(path))
    assert line == "row 5 was noted and is gone: the log's end was cut off at row 3"
    for _ in range(2):
        with log.write("operator:eve") as write:
            write.audit("device.approve", "evil")
    assert faults(log) == []
    assert faults(log, anchors(path)) == ["row 5 is not the row that was noted when it was written"]


def test_a_transaction_that_fails_leaves_no_row(log):
    def fails():
        with log.write("x") as write:
            write.audit("device.approve", "a")
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        fails()
    assert faults(log) == []
    with log.read() as db:
        assert audit.head(db).number == 5


def test_what_comes_from_outside_forges_no_line(registry: Registry):
    evil = "a\n2 operator:root device.approve b\x1b[2J\u202e\x9b';DROP TABLE audit;--" + "x" * 500
    with registry.write(evil) as write:
        write.audit("device.refused", evil, name=evil)
    with registry.read() as db:
        (row,) = audit.newest(db, 9)
    for field in (row.actor, row.subject, row.detail):
        assert field.isprintable()
        assert field.isascii()
        assert "\n" not in field
    assert json.loads(row.detail) == {"name": evil}
    assert faults(registry) == []


def test_a_log_is_read_by_pages(registry, monkeypatch):
    monkeypatch.setattr(audit, "_PAGE", 3)
    for _ in range(7):
        with registry.write("x") as write:
            write.audit("a", "b")
    with registry.engine.begin() as db:
        db.execute(text("UPDATE audit SET detail = '[]' WHERE number = 7"))
    assert faults(registry) == ["row 7 (a b) was changed"]
