"""The operator's commands, end to end on a fleet's folder."""

import csv
import io
import json
import os
import re
import shlex
import shutil
import socket

import pytest

from schemas.enrolment import parse_url
from schemas.fleet import FleetFolder
from server.cli import main
from server.fleet import alone
from server.fleet.alone import Alone, serving
from server.fleet.doctor import examine
from server.fleet.hearing import Noter
from server.fleet.hooks import Changes
from server.fleet.registry import Registry
from server.transport import Ledger
from tests.server.fleet.requests import new_key


@pytest.fixture
def fleet(made, migrated, tmp_path, monkeypatch):
    """A fleet's folder, which commands find by the environment."""
    root = tmp_path / "fleet"
    shutil.copytree(made, root)
    shutil.copy(migrated, root / "registry.sqlite")
    monkeypatch.setenv("FLWR_FLEET", str(root))
    return root


@pytest.fixture
def enrolled(fleet, run):
    """Enrol a device by a claim of the command line."""
    from schemas.enrolment import EnrolRequest
    from server.fleet import secret
    from server.fleet.authority import Authority
    from server.fleet.enrolment import Registrar
    from tests.server.fleet.requests import csr

    folder = FleetFolder(fleet)
    config = folder.config()
    authority = Authority(folder, config.lifetimes, secret.load(folder, config))

    def enrol(name, *options, key=None):
        code, out, _ = run("claim", "create", "--format", "json", *options)
        assert code == 0
        token = json.loads(out)[0]["claim"].rpartition(".")[0]
        with Registry(folder.database(config)) as registry:
            registrar = Registrar(registry, authority, config, "ab" * 32)
            asked = EnrolRequest(claim=token, csr=csr(name, key or new_key()))
            return registrar.enrol(asked, "10.0.0.1")

    return enrol


def listed(run, *options):
    code, out, _ = run("device", "list", "--format", "json", *options)
    assert code == 0
    return {row["device"]: row["state"] for row in json.loads(out)}


def test_from_a_claim_to_removal(run, enrolled):
    enrolled("a", "--tag", "pilot")
    enrolled("b", "--approval")
    assert listed(run) == {"a": "accepted", "b": "pending"}
    assert listed(run, "--state", "pending") == {"b": "pending"}
    assert listed(run, "--tag", "pilot") == {"a": "accepted"}
    assert run("device", "approve", "b", "--dry-run")[0] == 0
    assert listed(run)["b"] == "pending"
    assert run("device", "approve", "b")[0] == 4  # nobody to ask
    assert run("device", "approve", "b", "--yes")[0] == 0
    assert run("device", "tag", "b", "--add", "left", "--add", "pilot", "--drop", "none")[0] == 0
    assert set(listed(run, "--tag", "pilot")) == {"a", "b"}
    _, _, err = run("device", "revoke", "--tag", "pilot", "--dry-run")
    assert "would revoke: 2 devices (a, b); nothing was changed" in err
    assert run("device", "revoke", "a", "--reason", "lost", "--yes")[0] == 0
    _, out, _ = run("device", "show", "a", "--format", "json")
    card = json.loads(out)
    assert (card["state"], card["reason"], card["keys"][0]["state"]) == (
        "revoked",
        "lost",
        "revoked",
    )
    shown = run("device", "show", "a")[1]
    assert shown.startswith("device ")
    assert "\nquarantined          no\n" in shown
    assert run("device", "remove", "a", "--yes")[0] == 0
    assert set(listed(run)) == {"b"}
    assert listed(run, "--state", "removed") == {"a": "removed"}
    assert run("audit", "verify")[0] == 0


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("device", "show", "none"), 3, "no device none"),
        (("device", "revoke", "--yes"), 3, "no such device"),
        (("device", "tag", "x"), 1, "name a tag"),
        (("claim", "revoke", "000000000000", "--yes"), 3, "no claim"),
        (("claim", "create", "--device", "../x"), 1, "expected 1 to 63"),
        (("claim", "create", "--tag", "A b"), 1, "tag 'A b'"),
        (("claim", "create", "--device", "a", "--uses", "2"), 1, "leave uses at 1"),
        (("device", "rotate", "none"), 1, "none is not accepted yet"),
        (("device", "list", "--fleet", "/nowhere"), 2, "no fleet here"),
        (("device", "list", "--state", "revokd"), 2, "'revokd': no such state; there are expected"),
        (("device", "nonsense"), 2, ""),
        *(
            ((*words, "--hours", hours), code, says)
            for words in (
                ("claim", "create"),
                ("device", "rotate", "a"),
                ("device", "quarantine", "a", "--yes"),
            )
            for hours, code, says in (
                ("1e12", 1, "hours 1e+12: expected "),
                ("87600.1", 1, "at most 87600"),
                ("inf", 1, "hours inf"),
                ("nan", 1, "hours nan"),
            )
        ),
        (("claim", "create", "--hours", "0"), 1, "hours 0: expected above 0"),
        (("device", "rotate", "a", "--hours", "0"), 1, "hours 0: expected above 0"),
        (("claim", "create", "--note", "x" * 501), 1, "note: 501 characters; at most 500"),
        (("claim", "create", "--uses", "9" * 20), 2, ""),
        (("audit", "show", "--last", "9" * 20), 2, ""),
        (("serve", "--port", "9" * 20), 2, ""),
    ],
)
def test_what_is_wrong_is_said(run, words, code, says):
    got, _, err = run(*words)
    assert got == code
    assert says in err


def test_hours_are_what_was_said(run, tmp_path, fleet, monkeypatch):
    """0 hours were 24."""
    file = tmp_path / "in.csv"
    file.write_text("device\na\n")
    out = tmp_path / "claims.csv"
    for bad in ("0", "nan", "1e12"):
        code, _, err = run("device", "import", str(file), "--claims", str(out), "--hours", bad)
        assert code == 1
        assert err.endswith(": expected above 0, and at most 87600\n")
    assert listed(run) == {}
    assert run("device", "import", str(file), "--claims", str(out), "--hours", "87600")[0] == 0


def test_times_that_no_calendar_has_end_no_list(run, enrolled, fleet):
    """As an earlier release could write them; NaN is NULL to SQLite, which refuses it."""
    enrolled("a")
    with Registry(fleet / "registry.sqlite") as registry, registry.engine.begin() as db:
        db.exec_driver_sql("UPDATE claims SET expires = 3.6e15")
        db.exec_driver_sql("UPDATE certificates SET not_after = 9e999")
        db.exec_driver_sql("UPDATE audit SET at = -1e300 WHERE number = 1")
    assert "Unix time 3.6e+15" in run("claim", "list")[1]
    assert "Unix time inf" in run("device", "show", "a")[1]
    assert "Unix time inf" in run("device", "list")[1]
    assert "Unix time -1e+300" in run("audit", "show")[1]


def test_a_log_shows_dates_and_its_json_the_numbers(run, fleet):
    assert run("claim", "create")[0] == 0
    row = json.loads(run("audit", "show", "--action", "claim", "--format", "json")[1])[0]
    assert isinstance(row["detail"]["expires"], float)
    assert re.search(r'"expires": "20\d\d-\d\d-\d\dT', run("audit", "show")[1])
    for odd in ("no JSON", "[1]", '{"expires": "soon", "since": 1e300}'):
        with Registry(fleet / "registry.sqlite") as registry, registry.engine.begin() as db:
            db.exec_driver_sql("UPDATE audit SET detail = ?", (odd,))
        assert run("audit", "show")[0] == 0


def test_claims_are_listed_without_their_secrets(run, tmp_path):
    code, out, err = run(
        "claim", "create", "--device", "a", "--qr", "--qr-folder", str(tmp_path / "qr")
    )
    assert code == 0
    claim = out.split("--claim ")[1].split()[0]
    assert "█" in err
    assert (tmp_path / "qr" / "a.png").read_bytes().startswith(b"\x89PNG")
    code, out, _ = run("claim", "list")
    assert claim[:12] in out
    assert claim.split(".")[1] not in out
    assert run("claim", "revoke", claim[:12], "--yes")[0] == 0
    assert json.loads(run("claim", "list", "--format", "json")[1])[0]["state"] == "revoked"


def test_claims_are_listed_by_state_and_by_device(run):
    def found(*options):
        code, out, _ = run("claim", "list", *options, "--format", "json")
        assert code == 0
        return [(row["device"], row["state"]) for row in json.loads(out)]

    assert run("claim", "create", "--device", "a", "--device", "b")[0] == 0
    first = json.loads(run("claim", "list", "--device", "a", "--format", "json")[1])[0]["claim"]
    assert run("claim", "revoke", first, "--yes")[0] == 0
    assert found("--state", "revoked") == [("a", "revoked")]
    assert found("--device", "b") == [("b", "open")]
    assert found("--device", "b", "--state", "used") == []
    code, _, err = run("claim", "list", "--state", "new")
    assert (code, "there are open, used, revoked, expired" in err) == (2, True)


def test_devices_come_from_a_csv_and_go_into_one(run, enrolled, tmp_path):
    file, out = tmp_path / "in.csv", tmp_path / "claims.csv"
    file.write_text("device,tags\na,pilot left\nb,\n")
    assert run("device", "import", str(file), "--dry-run")[0] == 0
    assert listed(run) == {}
    assert run("device", "import", str(file), "--claims", str(out))[0] == 0
    rows = list(csv.DictReader(io.StringIO(out.read_text())))
    assert [row["device"] for row in rows] == ["a", "b"]
    assert out.stat().st_mode & 0o77 == 0
    assert listed(run) == {"a": "expected", "b": "expected"}
    assert enrolled("b", "--approval").state == "accepted"
    exported = run("device", "export")[1]
    assert exported.splitlines()[:2] == [
        "device,state,tags,certificate_until",
        "a,expected,left pilot,",
    ]
    code, _, err = run("device", "import", str(file), "--dry-run")
    assert (code, "b is there already, and accepted" in err) == (1, True)
    for bad in ("name\na\n", "device\na\na\n", "device,key\na,short\n", "device\n../a\n"):
        file.write_text(bad)
        code, _, err = run("device", "import", str(file))
        assert (code, err.startswith(f"flwr-fleet: {file}: line ")) == (2, True)
    assert listed(run) == {"a": "expected", "b": "accepted"}


def test_claims_that_cannot_be_written_name_what_was_asked_for(run, tmp_path):
    file, out = tmp_path / "in.csv", tmp_path / "none" / "claims.csv"
    file.write_text("device\na\n")
    code, _, err = run("device", "import", str(file), "--claims", str(out))
    assert (code, err) == (1, f"flwr-fleet: {out}: No such file or directory\n")


def test_who_was_never_heard_is_not_said_to_be_off(fleet, run, enrolled):
    enrolled("a", "--device", "a")
    online = ("device", "list", "--state", "accepted")
    assert run(*online)[1].splitlines()[1].split()[:4] == ["a", "accepted", "-", "-"]
    assert json.loads(run(*online, "--format", "json")[1])[0]["online"] is None
    ledger = Ledger(fleet / "registry.sqlite")
    ledger.set_state("a", {"online": False}, 1000.0)
    ledger.close()
    assert run(*online)[1].splitlines()[1].split()[2] == "no"
    assert json.loads(run(*online, "--format", "json")[1])[0]["online"] is False


def test_a_list_says_where_nobody_hears_who_is_online(fleet, run, enrolled, monkeypatch):
    enrolled("a", "--device", "a")
    ledger = Ledger(fleet / "registry.sqlite")
    ledger.set_state("a", {"online": True}, 1000.0)
    ledger.close()
    said = "flwr-fleet serve does not run"
    assert run("device", "list")[2] == f"{said}: who is online is as old as SEEN\n"
    for words in (("list",), ("show", "a")):
        found = json.loads(run("device", *words, "--format", "json")[1])
        found = found if isinstance(found, dict) else found[0]
        assert (found["unheard"], found["unheard_since"]) == (said, None)
    with Registry(fleet / "registry.sqlite") as registry, socket.socket() as broker:
        broker.bind(("127.0.0.1", 0))
        config = FleetFolder(fleet).config()
        place = {"host": "127.0.0.1", "port": broker.getsockname()[1]}
        moved = config.model_copy(update={"broker": config.broker.model_copy(update=place)})
        monkeypatch.setattr(FleetFolder, "config", lambda _: moved)
        served = Alone(fleet, registry.engine)
        code, out, err = run("device", "list", "--format", "json")
        assert (code, json.loads(out)[0]["online"]) == (0, True)
        assert re.search(r"^the broker .*:\d+ does not answer \(Connection refused\): who", err)
        broker.listen()
        assert run("device", "list")[2] == ""
        assert json.loads(run("device", "list", "--format", "json")[1])[0]["unheard"] is None
        served.release()


def test_a_server_that_the_broker_refuses_hears_nobody(fleet, run, enrolled, monkeypatch):
    """The broker is up: that it answers says nothing of the server's own connection."""
    enrolled("a", "--device", "a")
    ledger = Ledger(fleet / "registry.sqlite")
    ledger.set_state("a", {"online": True}, 1000.0)
    ledger.close()
    place = FleetFolder(fleet)
    with Registry(fleet / "registry.sqlite") as registry, socket.socket() as broker:
        broker.bind(("127.0.0.1", 0))
        broker.listen()
        config = place.config()
        there = {"host": "127.0.0.1", "port": broker.getsockname()[1]}
        moved = config.model_copy(update={"broker": config.broker.model_copy(update=there)})
        monkeypatch.setattr(FleetFolder, "config", lambda _: moved)
        served, now = Alone(fleet, registry.engine), [1000.0]
        noter = Noter(place.hearing, lambda: serving(registry.engine), lambda: now[0])
        noter.failed("refused: not authorized")
        noter.look(connected=False)
        why = "flwr-fleet serve has no connection to the broker (refused: not authorized)"
        since = "1970-01-01T00:16:40+00:00"
        assert run("device", "list")[2].startswith(f"{why}, since {since}: who is online is as old")
        row = json.loads(run("device", "list", "--format", "json")[1])[0]
        assert (row["unheard"], row["unheard_since"]) == (why, since)
        (found,) = [one for one in examine(place, moved) if one.name == "serve"]
        assert (found.state, why in found.seen) == ("fault", True)
        for _ in range(3):
            noter.lost("closed without a word")
        noter.look(connected=True)
        assert run("device", "list")[2] == ""
        (found,) = [one for one in examine(place, moved) if one.name == "serve"]
        assert (found.state, "3 times in 10 minutes" in found.seen) == ("warning", True)
        now[0] += 700
        noter.look(connected=True)
        (found,) = [one for one in examine(place, moved) if one.name == "serve"]
        assert found.state == "ok"
        served.release()
        assert "serve does not run, since 1970-01-01T00:28:20" in run("device", "list")[2]
        again = Alone(fleet, registry.engine)  # another: what the one before noted is not of it
        noter.failed("no more")
        noter.look(connected=False)
        monkeypatch.setattr(alone, "serving", lambda _: "another")
        assert run("device", "list")[2] == ""
        again.release()


def test_a_certificate_that_has_expired_is_marked(fleet, run, enrolled):
    enrolled("a", "--device", "a")
    assert "expired" not in run("device", "list")[1]
    with Registry(fleet / "registry.sqlite") as registry, registry.engine.begin() as db:
        db.exec_driver_sql("UPDATE certificates SET not_after = 1800000")
    assert "1970-01-21T20:00:00+00:00 (expired)" in run("device", "list")[1]
    assert json.loads(run("device", "show", "a", "--format", "json")[1])["certificate_expired"]


@pytest.mark.parametrize("verb", ["approve", "reject", "remove", "release"])
def test_a_dry_run_refuses_what_would_be_refused(run, enrolled, verb):
    enrolled("a", "--device", "a")
    code, _, err = run("device", verb, "a", "--dry-run")
    assert (code, err) == run("device", verb, "a", "--yes")[::2]
    assert code == 1


def test_a_dry_run_changes_nothing(run, enrolled, fleet):
    enrolled("a", "--approval")
    before = run("audit", "verify")[1]
    for verb in ("approve", "reject", "remove"):
        code, _, err = run("device", verb, "a", "--dry-run")
        assert (code, "nothing was changed" in err) == (0, True)
    assert listed(run) == {"a": "pending"}
    assert run("audit", "verify")[1] == before


def test_devices_of_a_tag_are_tagged_and_who_did_what_is_found(run, enrolled):
    for name in "abc":
        enrolled(name, *(["--tag", "pilot"] if name != "c" else []))
    assert run("device", "tag", "--tag", "pilot", "--add", "autumn")[2] == "changed 2\n"
    assert set(listed(run, "--tag", "autumn")) == {"a", "b"}
    assert run("device", "tag", "--add", "x")[0] == 3
    assert run("device", "revoke", "c", "--yes")[0] == run("device", "remove", "c", "--yes")[0] == 0
    code, _, err = run("device", "tag", "a", "c", "--add", "x")
    assert (code, "c is removed; only who is in the lists can be tagged" in err) == (1, True)
    assert listed(run, "--tag", "x") == {}
    me = json.loads(run("audit", "show", "--action", "device.tag", "--format", "json")[1])[0]
    rows = json.loads(run("audit", "show", "--actor", me["actor"], "--format", "json")[1])
    assert {row["actor"] for row in rows} == {me["actor"]}
    assert [row["subject"] for row in rows if row["action"] == "device.tag"] == ["a", "b"]
    assert me["detail"] == {"add": ["autumn"], "drop": []}
    assert '{"add": ["autumn"], "drop": []}' in run("audit", "show", "--action", "device.tag")[1]
    assert run("audit", "show", "--actor", "operator:nobody")[1] == "none\n"


def test_an_operator_rotates_a_key(run, enrolled):
    first = enrolled("a", "--device", "a")
    code, out, _ = run("device", "rotate", "a", "--format", "json")
    assert code == 0
    assert json.loads(out)[0]["device"] == "a"
    assert first.state == "accepted"


def test_a_tampered_log_is_found_by_the_command(run, enrolled, fleet):
    enrolled("a")
    assert run("audit", "show", "--subject", "a")[1].count("device.enrol") == 1
    with Registry(fleet / "registry.sqlite") as registry, registry.engine.begin() as db:
        db.exec_driver_sql("DELETE FROM audit WHERE number = (SELECT max(number) FROM audit)")
    code, out, _ = run("audit", "verify")
    assert code in (0, 5)  # the claim's row was noted, the enrolment's own may not have been
    with Registry(fleet / "registry.sqlite") as registry, registry.engine.begin() as db:
        db.exec_driver_sql("UPDATE audit SET actor = 'operator:eve' WHERE number = 1")
    code, out, _ = run("audit", "verify", "--format", "json")
    assert code == 5
    assert "row 1" in json.loads(out)["faults"][0]


def test_init_completes_and_changes_nothing(tmp_path, capsys, monkeypatch):
    root = tmp_path / "new"
    words = ["init", str(root), "--name", "wearables", "--host", "fleet.example"]
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 0
        kept = {path: path.read_bytes() for path in root.rglob("*.key")}
        (root / "crl.pem").unlink()
    assert {path: path.read_bytes() for path in root.rglob("*.key")} == kept
    assert 'name = "wearables"' in (root / "fleet.toml").read_text()
    for bad in ([str(tmp_path)], [str(tmp_path / "b"), "--name", "A b"]):
        with pytest.raises(SystemExit) as ended:
            main(["init", *bad])
        assert ended.value.code == 2
    capsys.readouterr()


def initialised(root, capsys, *words):
    """Make a fleet; what was said."""
    with pytest.raises(SystemExit) as ended:
        main(["init", str(root), *words])
    assert ended.value.code == 0
    return capsys.readouterr().err


def claimed(root, capsys, *words):
    """Make a claim in JSON; its row, and what was said."""
    with pytest.raises(SystemExit):
        main(["claim", "create", "--fleet", str(root), "--format", "json", *words])
    said = capsys.readouterr()
    return json.loads(said.out)[0], said.err


def test_a_fleet_that_this_machine_alone_reaches_says_so(tmp_path, capsys):
    said = initialised(tmp_path / "here", capsys)
    assert said.count("from this machine alone") == 1
    assert "server.host" in said
    assert "from this machine alone" in claimed(tmp_path / "here", capsys)[1]
    assert "alone" not in initialised(tmp_path / "there", capsys, "--host", "fleet.example")
    assert claimed(tmp_path / "there", capsys)[1] == ""


def test_an_address_of_ipv6_is_printed_so_that_devices_can_read_it(tmp_path, capsys):
    root, out = tmp_path / "six", tmp_path / "claims.csv"
    initialised(root, capsys, "--host", "2001:DB8::7", "--port", "39443")
    config = FleetFolder(root).config()
    assert (config.server.host, config.server.listen) == ("2001:db8::7", "::")
    assert (config.broker.host, config.broker.listen) == ("2001:db8::7", "::")
    row, _ = claimed(root, capsys)
    assert "--server '[2001:db8::7]:39443' --claim" in row["run"]
    assert parse_url(row["url"])[0] == "[2001:db8::7]:39443"
    file = tmp_path / "in.csv"
    file.write_text("device\na\n")
    with pytest.raises(SystemExit):
        main(["device", "import", str(file), "--claims", str(out), "--fleet", str(root)])
    assert "https://[2001:db8::7]:39443/enrol#" in out.read_text()
    capsys.readouterr()


def test_commands_that_are_printed_can_be_pasted(tmp_path, capsys):
    root = tmp_path / "ann's fleet"
    said = initialised(root, capsys)
    assert f"flwr-fleet serve --fleet {shlex.quote(str(root))}\n" in said
    with pytest.raises(SystemExit):
        main(["broker", "config", "--fleet", str(root)])
    words = shlex.split(capsys.readouterr().out)
    assert words == ["mosquitto", "-c", str(root / "broker" / "mosquitto.conf")]


def test_a_mark_before_the_fleet_s_file_is_none_of_it(fleet, run):
    file = fleet / "fleet.toml"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert run("claim", "list")[0] == 0


def test_keys_lie_encrypted_under_a_passphrase(tmp_path, monkeypatch, capsys):
    root = tmp_path / "new"
    monkeypatch.setenv("FLWR_FLEET_PASSPHRASE", "a long passphrase")
    with pytest.raises(SystemExit):
        main(["init", str(root), "--passphrase"])
    assert not (root / "secret.key").exists()
    for path in (root / "ca" / "1.key", root / "signing.key"):
        assert b"ENCRYPTED" in path.read_bytes()
        assert path.stat().st_mode & 0o77 == 0
    monkeypatch.setenv("FLWR_FLEET_PASSPHRASE", "another passphrase")
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["claim", "create", "--fleet", str(root)])
    assert ended.value.code == 0  # a claim needs no key of the CA
    (root / "crl.pem").unlink()
    with pytest.raises(SystemExit) as ended:
        main(["init", str(root)])
    assert ended.value.code == 2
    assert "the one it was encrypted with" in capsys.readouterr().err


def test_a_key_file_that_others_may_read_is_refused(fleet, run):
    os.chmod(fleet / "secret.key", 0o644)  # noqa: PTH101
    code, _, err = run("claim", "create")
    assert code == 2
    assert "chmod 600" in err


def test_the_authority_rolls_over_once_at_a_time(run, fleet):
    assert run("ca", "rollover", "--dry-run")[0] == 0
    assert run("ca", "rollover", "--yes")[0] == 0
    code, out, _ = run("ca", "list", "--format", "json")
    first, second = json.loads(out)
    assert (code, first["trusted"], first["devices"], first["server"]) == (0, True, False, True)
    assert run("ca", "list")[1].splitlines()[1].split()[2:5] == ["yes", "no", "yes"]
    assert (second["trusted"], second["devices"], second["server"]) == (True, True, False)
    assert (fleet / "ca.pem").read_text().count("BEGIN CERTIFICATE") == 2
    code, _, err = run("ca", "rollover", "--yes")
    assert code == 1
    assert "under way" in err


@pytest.mark.parametrize(
    ("state", "verb", "follows"),
    [
        ("pending", "approve", Changes(accepted=["a"])),
        ("pending", "remove", Changes(gone=["a"], replaced=[])),
        ("accepted", "quarantine", Changes(held=["a"])),
        ("quarantined", "release", Changes(released=["a"])),
    ],
)
def test_others_are_told_and_where_they_could_not_be_it_is_an_error(
    run, enrolled, monkeypatch, state, verb, follows
):
    enrolled("a", *(("--approval",) if state == "pending" else ("--device", "a")))
    if state == "quarantined":
        assert run("device", "quarantine", "a", "--yes")[0] == 0
    told = []

    def changed(_, __, changes):
        told.append(changes)
        return ["the broker is away"]

    monkeypatch.setattr("server.fleet.hooks.changed", changed)
    code, _, err = run("device", verb, "a", "--yes")
    assert (code, "the broker is away" in err) == (1, True)
    assert told == [follows]
