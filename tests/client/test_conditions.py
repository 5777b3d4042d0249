import datetime as dt

import pytest
from pydantic import ValidationError

from client.conditions import (
    Conditions,
    ConditionsConfig,
    Hours,
    LoadUnder,
    OnPower,
    Stated,
    Unmetered,
)
from schemas.base import describe


def supplies(root, **each):
    for name, attributes in each.items():
        folder = root / name
        folder.mkdir(parents=True)
        for key, value in attributes.items():
            (folder / key).write_text(f"{value}\n")
    return root


BATTERY = {"type": "Battery", "status": "Discharging"}


@pytest.mark.parametrize(
    ("each", "met", "reason"),
    [
        ({}, True, "no battery"),
        ({"AC": {"type": "Mains", "online": 1}, "BAT0": BATTERY}, True, "AC"),
        ({"AC": {"type": "Mains", "online": 0}, "BAT0": BATTERY}, False, "on battery"),
        ({"usb": {"type": "USB", "online": 1}, "BAT0": BATTERY}, True, "usb"),
        ({"BAT0": BATTERY}, False, "on battery"),
        ({"BAT0": {"type": "Battery", "status": "Full"}}, True, "BAT0"),
        ({"BAT0": {"type": "Battery", "status": "Unknown"}}, False, "on battery"),
        ({"mouse": {**BATTERY, "scope": "Device"}}, True, "no battery"),
        ({"odd": {}}, True, "no battery"),
    ],
)
def test_on_power(tmp_path, each, met, reason):
    found = OnPower(supplies(tmp_path / "power_supply", **each)).met()
    assert found[0] is met
    assert reason in found[1]


@pytest.mark.parametrize(
    ("answer", "met", "reason"),
    [
        (1, False, "is metered"),
        (2, True, "not metered"),
        (3, False, "is metered"),
        (4, True, "not metered"),
        (0, False, "conditions.network"),
        (9, False, "not known"),
    ],
)
def test_unmetered(answer, met, reason):
    found = Unmetered(lambda: answer).met()
    assert found[0] is met
    assert reason in found[1]


def test_the_network_is_asked_once_a_minute():
    asked, now = [], [0.0]

    def ask():
        asked.append(now[0])
        return 2

    condition = Unmetered(ask, lambda: now[0])
    for second in range(0, 130, 10):
        now[0] = float(second)
        condition.met()
    assert asked == [0, 60, 120]


@pytest.mark.parametrize(
    ("answer", "met"),
    [("u 4", True), ("u 1", False), ("", False), ("s no", False), ("fails", False)],
)
def test_network_manager_is_asked_through_busctl(tmp_path, monkeypatch, answer, met):
    program = tmp_path / "busctl"
    program.write_text(
        "#!/bin/sh\nexit 1\n" if answer == "fails" else f"#!/bin/sh\necho '{answer}'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}")
    assert Unmetered().met()[0] is met
    program.unlink()
    assert Unmetered().met()[0] is False


def test_what_is_stated_of_the_network_is_believed():
    assert Stated(unmetered=True).met()[0]
    assert Stated(unmetered=False).met() == (False, 'conditions.network says "metered"')


@pytest.mark.parametrize(("load", "met"), [(0.9, True), (1.0, True), (2.0, True), (2.1, False)])
def test_load_is_by_core(load, met):
    found = LoadUnder(0.5, lambda: (load, 9.0, 9.0), cores=4).met()
    assert found[0] is met
    assert "at most 0.5" in found[1]


def test_a_load_that_cannot_be_read_is_not_met():
    def broken():
        raise OSError("no /proc")

    assert LoadUnder(1, broken).met() == (False, "the load is not to be read: no /proc")


@pytest.mark.parametrize(
    ("spans", "time", "met"),
    [
        (("22:00-06:00",), "22:00", True),
        (("22:00-06:00",), "05:59", True),
        (("22:00-06:00",), "06:00", False),
        (("22:00-06:00",), "12:00", False),
        (("01:00-02:00", "12:00-13:00"), "12:30", True),
        (("00:00-24:00",), "23:59", True),
        (("23:00-24:00",), "23:59", True),
        (("23:00-24:00",), "00:00", False),
    ],
)
def test_hours(spans, time, met):
    at = dt.datetime.fromisoformat(f"2026-03-01T{time}")
    assert Hours(spans, lambda: at).met()[0] is met


@pytest.mark.parametrize("text", ["22-6", "25:00-01:00", "24:00-01:00", "1:00-2:00", "01:00-01:00"])
def test_hours_that_are_none_are_named(text):
    with pytest.raises(ValidationError) as caught:
        ConditionsConfig(hours=(text,))
    assert describe(caught.value.errors()) == [
        f"hours.0 = '{text}': expected hours of the day as in \"22:00-06:00\""
    ]


@pytest.mark.parametrize("wrong", [{"max_load": 0}, {"network": "wifi"}, {"on_powr": True}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        Conditions(wrong)


def test_none_set_is_always_met():
    assert Conditions({}).met() == (True, "all conditions for work are met")


def test_the_first_that_fails_says_why():
    rich, poor = Stated(unmetered=True), LoadUnder(1, lambda: (3.0,), cores=1)
    assert Conditions({}, [rich, rich]).met()[0]
    assert Conditions({}, [rich, poor, rich]).met() == (False, "load 3.00 a core; at most 1")


def test_each_setting_adds_its_condition():
    config = ConditionsConfig(
        on_power=True, unmetered=True, network="unmetered", max_load=1, hours=("00:00-24:00",)
    )
    kinds = [type(condition) for condition in Conditions(config)._all]
    assert kinds == [Hours, OnPower, LoadUnder, Stated]
