"""Trouble that comes again and again is logged once, until it is over."""

import logging
import sqlite3

import pytest

from client.once import Once


@pytest.fixture
def once():
    return Once(logging.getLogger("flwr_edge.test"))


def full():
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    return error


def test_each_kind_is_said_once(once, caplog):
    for _ in range(3):
        once(full(), "it cannot be noted")
        once(OSError(28, "No space left on device"), "it cannot be noted")
        once(full(), "it cannot be read")
    assert len(caplog.records) == 3
    assert "Traceback" not in caplog.text


def test_it_is_said_again_once_it_had_gone_well(once, caplog):
    once(full(), "it cannot be noted")
    assert once.well()
    assert not once.well()
    once(full(), "it cannot be noted")
    assert len(caplog.records) == 2


def test_what_nobody_foresaw_comes_with_its_traceback(once, caplog):
    once(KeyError("x"), "between tasks")
    assert caplog.records[0].exc_info
