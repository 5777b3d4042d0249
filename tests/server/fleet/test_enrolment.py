"""What the registrar decides, on both databases; ``test_attacks.py`` says it over HTTPS."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import AttributeOID, NameOID
from sqlalchemy import event, func, select

from server.fleet import csr as csrs
from server.fleet import devices, hooks, secret
from server.fleet.authority import Authority
from server.fleet.errors import Denied, Refusal
from server.fleet.registry import Audit, Certificate, Claim, Device, Enrolment, Key, audit
from server.transport.tables import DeviceRow
from tests.server.fleet.requests import claim, csr, new_key, request, rotation

TABLES = (Device, Key, Certificate, Claim, Enrolment, DeviceRow)


def rows(registry):
    """All that an enrolment could change."""
    with registry.read() as db:
        return [sorted(map(repr, db.execute(select(table.__table__)))) for table in TABLES]


def states(registry, name="watch-1"):
    with registry.read() as db:
        device = db.get_one(Device, name)
        keys = db.scalars(select(Key).where(Key.device == name).order_by(Key.created)).all()
        row = db.get(DeviceRow, name)
        return device.state, [key.state for key in keys], bool(row and row.enrolled)


def denied(registrar, error, ask, *arguments):
    """It is refused with this word, and changes nothing."""
    before = rows(registrar.registry)
    with pytest.raises(Denied) as caught:
        ask(*arguments, "10.0.0.1")
    assert caught.value.error == error
    assert rows(registrar.registry) == before


def do(keeper, change, *arguments):
    with keeper.registry.write("operator:tests") as write:
        return change(write, *arguments)


def test_a_device_is_enrolled_with_a_claim(registrar, keeper):
    key = new_key()
    token = claim(keeper, "watch-1", tags=("pilot", "left"))
    reply = registrar.enrol(request(token, key=key), "10.0.0.1")
    assert (reply.state, reply.device) == ("accepted", "watch-1")
    leaf = x509.load_pem_x509_certificate(reply.certificate.encode())
    leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(reply.ca.encode()))
    assert leaf.public_key() == key.public_key()
    assert leaf.subject.rfc4514_string() == "CN=watch-1"
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [each._name for each in usage] == ["clientAuth"]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert (reply.broker.host, reply.broker.port) == ("localhost", 8883)
    assert reply.fleet_key == "ab" * 32
    assert states(keeper.registry) == ("accepted", ["accepted"], True)
    with keeper.registry.read() as db:
        assert [tag.tag for tag in db.get_one(Device, "watch-1").tags] == ["left", "pilot"]
        last = audit.newest(db, 1)[0]
    assert (last.action, last.subject) == ("device.enrol", "watch-1")
    assert csrs.read(request(token, key=key).csr).key in last.detail


def test_the_same_request_gets_the_same_answer_and_uses_nothing_up(registrar, keeper):
    asked = request(claim(keeper, "watch-1"))
    first = registrar.enrol(asked, "10.0.0.1")
    before = rows(keeper.registry)
    assert registrar.enrol(asked, "10.0.0.2") == first
    assert rows(keeper.registry) == before


def test_a_used_expired_revoked_guessed_or_bound_claim(registrar, keeper, clock):
    token = claim(keeper, "watch-1")
    registrar.enrol(request(token), "10.0.0.1")
    denied(registrar, "claim-used", registrar.enrol, request(token))
    denied(registrar, "claim-used", registrar.enrol, request(token, "watch-2"))
    denied(registrar, "claim-other-name", registrar.enrol, request(claim(keeper, "b"), "c"))
    open_ = claim(keeper)
    guessed = open_[:13] + ("A" if open_[13] != "A" else "B") + open_[14:]
    denied(registrar, "claim-unknown", registrar.enrol, request(guessed, "d"))
    denied(registrar, "claim-unknown", registrar.enrol, request(f"{'0' * 12}.{'A' * 32}", "d"))
    clock.now += 3601
    denied(registrar, "claim-expired", registrar.enrol, request(open_, "d"))
    other = claim(keeper)
    from server.fleet import claims

    do(keeper, claims.revoke, [other.partition(".")[0]])
    denied(registrar, "claim-revoked", registrar.enrol, request(other, "d"))


@pytest.mark.parametrize("hours", [float("nan"), float("inf"), 1e12, 87_601, 0, -1])
def test_hours_of_a_claim_are_bounded(keeper, hours):
    with pytest.raises(Refusal, match="expected above 0, and at most 87600"):
        claim(keeper, hours=hours)


def test_a_note_is_as_long_on_either_database(keeper):
    claim(keeper, note="ü" * 500)
    with pytest.raises(Refusal, match="note: 501 characters"):
        claim(keeper, note="ü" * 501)


def test_a_claim_without_an_end_that_is_a_time_is_expired(registrar, keeper):
    """PostgreSQL holds NaN, which is later than all times there."""
    from sqlalchemy import update

    from server.fleet import claims

    token = claim(keeper, "watch-1")
    if keeper.registry.engine.dialect.name == "sqlite":
        return
    do(keeper, lambda write: write.db.execute(update(Claim).values(expires=float("nan"))))
    denied(registrar, "claim-expired", registrar.enrol, request(token))
    with keeper.registry.read() as db:
        assert [claims.state(row, 0.0) for row in claims.listed(db)] == ["expired"]


def test_a_claim_for_many_enrols_so_many(registrar, keeper):
    token = claim(keeper, uses=2)
    for name in ("a", "b"):
        registrar.enrol(request(token, name), "10.0.0.1")
    denied(registrar, "claim-used", registrar.enrol, request(token, "c"))


def test_an_operator_approves_or_turns_down(registrar, keeper):
    token = claim(keeper, uses=3, approval="operator")
    asked = request(token)
    reply = registrar.enrol(asked, "10.0.0.1")
    assert (reply.state, reply.certificate, reply.retry_after) == ("pending", None, 15)
    assert reply.csr_sha256 == csrs.read(asked.csr).sha256
    assert states(keeper.registry) == ("pending", ["pending"], False)
    denied(registrar, "name-taken", registrar.enrol, request(token))
    do(keeper, devices.approve, keeper.authority, ["watch-1"])
    assert registrar.enrol(asked, "10.0.0.1").state == "accepted"
    registrar.enrol(other := request(token, "watch-2"), "10.0.0.1")
    do(keeper, devices.reject, ["watch-2"], "not ours")
    denied(registrar, "device-rejected", registrar.enrol, other)
    denied(registrar, "device-revoked", registrar.enrol, request(token, "watch-2"))
    registrar.enrol(request(claim(keeper, "watch-2"), "watch-2"), "10.0.0.1")
    assert states(keeper.registry, "watch-2")[0] == "accepted"


def test_expected_devices_are_accepted_at_once_and_with_their_key_only(registrar, keeper):
    key = new_key()
    token = claim(keeper, uses=5, approval="operator")
    do(keeper, devices.expect, "watch-1", ["pilot"], csrs.read(csr("watch-1", key)).key)
    do(keeper, devices.expect, "watch-2")
    denied(registrar, "other-key", registrar.enrol, request(token))
    assert registrar.enrol(request(token, key=key), "10.0.0.1").state == "accepted"
    assert registrar.enrol(request(token, "watch-2"), "10.0.0.1").state == "accepted"
    with pytest.raises(Refusal, match="watch-1 is there already, and accepted"):
        do(keeper, devices.expect, "watch-1")


def test_revoked_stays_revoked(registrar, keeper, clock):
    key, shared = new_key(), claim(keeper, uses=9)
    asked = request(shared, key=key)
    reply = registrar.enrol(asked, "10.0.0.1")
    do(keeper, devices.revoke, ["watch-1"], "lost")
    assert states(keeper.registry) == ("revoked", ["revoked"], False)
    # The claim that lies on it, word for word and with another key or name, and its certificate.
    denied(registrar, "device-revoked", registrar.enrol, asked)
    denied(registrar, "claim-revoked", registrar.enrol, request(shared))
    denied(registrar, "claim-revoked", registrar.enrol, request(shared, "watch-2"))
    other = claim(keeper, uses=9)
    denied(registrar, "device-revoked", registrar.enrol, request(other))
    denied(registrar, "key-reused", registrar.enrol, request(other, "watch-2", key))
    denied(registrar, "device-revoked", registrar.rotate, rotation(reply.certificate, key))
    with pytest.raises(Refusal, match="is revoked; remove it first"):
        claim(keeper, "watch-1")
    # Removed, its name is free for a claim made by name since then, and for no other.
    do(keeper, devices.remove, ["watch-1"])
    denied(registrar, "device-revoked", registrar.enrol, request(other))
    clock.now += 1
    again = claim(keeper, "watch-1")
    denied(registrar, "key-reused", registrar.enrol, request(again, key=key))
    assert registrar.enrol(request(again), "10.0.0.1").state == "accepted"


def test_claims_that_are_bound_to_a_name_go_with_it(registrar, keeper, clock):
    shared, bound = claim(keeper, uses=9, approval="operator"), claim(keeper, "watch-1")
    registrar.enrol(request(shared), "10.0.0.1")
    clock.now += 1
    do(keeper, devices.reject, ["watch-1"], "not ours")
    with pytest.raises(Denied, match=r"this claim was made before it was rejected; ask for a new"):
        registrar.enrol(request(bound), "10.0.0.1")
    do(keeper, devices.remove, ["watch-1"])
    denied(registrar, "claim-revoked", registrar.enrol, request(bound))
    assert registrar.enrol(request(shared, "watch-2"), "10.0.0.1").state == "pending"


def test_an_accepted_name_is_not_taken_over(registrar, keeper):
    registrar.enrol(request(claim(keeper, "watch-1")), "10.0.0.1")
    denied(registrar, "name-taken", registrar.enrol, request(claim(keeper, uses=9)))
    with pytest.raises(Refusal, match="watch-1 is accepted; device rotate it"):
        claim(keeper, "watch-1")
    for name in keeper.config.reserved:
        denied(registrar, "name-taken", registrar.enrol, request(claim(keeper), name))


def test_an_operator_replaces_a_key(registrar, keeper):
    first = registrar.enrol(request(claim(keeper, "watch-1")), "10.0.0.1")
    with pytest.raises(Refusal, match="watch-2 is not accepted yet"):
        claim(keeper, "watch-2", replaces=True)
    registrar.enrol(request(claim(keeper, "watch-1", replaces=True)), "10.0.0.1")
    assert states(keeper.registry)[0] == "accepted"
    assert sorted(states(keeper.registry)[1]) == ["accepted", "retired"]
    keeper.publish()
    serial = x509.load_pem_x509_certificate(first.certificate.encode()).serial_number
    revoked = x509.load_pem_x509_crl(keeper.folder.crl.read_bytes())
    assert revoked.get_revoked_certificate_by_serial_number(serial) is not None


def listed(keeper, reply):
    """Whether a reply's certificate is on the revocation list that lies in the folder."""
    serial = x509.load_pem_x509_certificate(reply.certificate.encode()).serial_number
    revoked = x509.load_pem_x509_crl(keeper.folder.crl.read_bytes())
    return revoked.get_revoked_certificate_by_serial_number(serial) is not None


@pytest.mark.parametrize("step", ["flush", "tick"])
def test_a_replaced_key_is_listed_at_once_and_its_session_ended(
    registrar, keeper, monkeypatch, step
):
    told = []
    monkeypatch.setattr(hooks, "changed", lambda _folder, _config, it: told.append(it) or [])
    first = registrar.enrol(request(claim(keeper, "watch-1")), "10.0.0.1")
    keeper.accepted("watch-1")
    keeper.flush()
    second = registrar.enrol(request(claim(keeper, "watch-1", replaces=True)), "10.0.0.1")
    if step == "flush":  # tick: it was killed before
        keeper.accepted("watch-1")
    getattr(keeper, step)()
    assert listed(keeper, first)
    assert not listed(keeper, second)
    assert [list(it.replaced) for it in told] == [[], ["watch-1"]]
    keeper.accepted("watch-1")
    keeper.flush()
    keeper.tick()
    assert [list(it.replaced) for it in told] == [[], ["watch-1"], []]


def test_what_is_published_has_the_authority_that_another_process_made(keeper):
    folder, config = keeper.folder, keeper.config
    clock = keeper.authority.clock
    other = Authority(folder, config.lifetimes, secret.load(folder, config), clock)
    other.roll_over("Ours")
    keeper.publish()
    assert other.newest.pem in folder.bundle_of_cas.read_text()


def test_what_could_not_be_told_is_told_by_the_next_flush(registrar, keeper, monkeypatch):
    told = []
    registrar.enrol(request(claim(keeper, "watch-1")), "10.0.0.1")
    keeper.accepted("watch-1")
    monkeypatch.setattr(hooks, "changed", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        keeper.flush()
    monkeypatch.setattr(
        hooks, "changed", lambda _folder, _config, it: told.extend(it.accepted) or []
    )
    keeper.accepted("watch-2")
    keeper.flush()
    assert told == ["watch-1", "watch-2"]


def test_what_was_revoked_before_a_kill_is_published_by_the_next_tick(
    registrar, keeper, clock, monkeypatch
):
    key = new_key()
    lost = registrar.enrol(request(claim(keeper, "watch-1")), "10.0.0.1")
    old = registrar.enrol(request(claim(keeper, "watch-2"), "watch-2", key), "10.0.0.1")
    keeper.tick()
    do(keeper, devices.revoke, ["watch-1"], "lost")  # and killed
    keeper.tick()
    assert listed(keeper, lost)
    clock.now += 60
    registrar.rotate(rotation(old.certificate, key, "watch-2"), "10.0.0.1")
    clock.now += 601

    def killed(_keeper):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(keeper), "publish", killed)
        with pytest.raises(KeyboardInterrupt):
            keeper.tick()
    assert not listed(keeper, old)
    keeper.tick()
    assert listed(keeper, old)


def test_who_rotates_by_itself_keeps_its_session(registrar, keeper, clock, monkeypatch):
    told = []
    monkeypatch.setattr(hooks, "changed", lambda _folder, _config, it: told.append(it) or [])
    old = registrar.enrol(request(claim(keeper, "watch-1"), key=(key := new_key())), "10.0.0.1")
    keeper.tick()
    registrar.rotate(rotation(old.certificate, key), "10.0.0.1")
    clock.now += 601
    keeper.tick()
    assert listed(keeper, old)
    assert [it for it in told if it] == []


def test_keys_of_years_are_not_gone_through_at_each_tick(registrar, keeper):
    asked = []
    listen = (keeper.registry.engine, "before_cursor_execute")
    event.listen(*listen, lambda _c, _cursor, text, values, *_: asked.append((text, values)))
    with keeper.registry.write("server") as write:
        devices.retire_old(write, write.now)
        text, values = asked[-1]
        if write.db.get_bind().dialect.name != "sqlite":
            return  # plans of an empty table say nothing there
        plan = write.db.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {text}", values)
        steps = [row[-1] for row in plan]
    assert steps
    assert not [step for step in steps if step.startswith("SCAN")]


def test_what_a_tick_cannot_do_is_said_once_and_when_it_is_done(keeper, monkeypatch, caplog):
    down = ["broker: no broker runs"]
    monkeypatch.setattr(hooks, "tick", lambda *_: list(down))
    for _ in range(3):
        keeper.tick()
    assert caplog.text.count("no broker runs; tried again until it is done") == 1
    down.clear()
    keeper.tick()
    keeper.tick()
    assert caplog.text.count("is done now") == 1


def test_hooks_hear_of_a_replaced_device_that_it_goes_and_then_that_it_came(monkeypatch):
    told = []
    monkeypatch.setattr(hooks, "_each", lambda *them: told.append(them[3:]) or iter(()))
    hooks.changed(None, None, hooks.Changes(accepted=["a", "b"], replaced=["a"]))
    assert told == [([], ["a"], []), (["a", "b"], [], [])]
    told.clear()
    hooks.changed(None, None, hooks.Changes(replaced=["a"]))
    assert told == [([], ["a"], []), (["a"], [], [])]


@pytest.mark.parametrize("make", [new_key, ed25519.Ed25519PrivateKey.generate])
def test_a_device_rotates_under_its_old_identity(registrar, keeper, clock, make):
    old, new = make(), make()
    first = registrar.enrol(request(claim(keeper, "watch-1"), key=old), "10.0.0.1")
    clock.now = first.renew_at
    asked = rotation(first.certificate, old, new=new)
    second = registrar.rotate(asked, "10.0.0.1")
    assert second.renew_at > first.renew_at
    assert sorted(states(keeper.registry)[1]) == ["accepted", "retired"]
    before = rows(keeper.registry)
    assert registrar.rotate(asked, "10.0.0.1") == second  # the answer was lost
    assert rows(keeper.registry) == before
    denied(registrar, "certificate-revoked", registrar.rotate, rotation(first.certificate, old))
    clock.now += 601
    keeper.tick()
    serial = x509.load_pem_x509_certificate(first.certificate.encode()).serial_number
    revoked = x509.load_pem_x509_crl(keeper.folder.crl.read_bytes())
    assert revoked.get_revoked_certificate_by_serial_number(serial) is not None
    assert registrar.rotate(asked, "10.0.0.1") == second


def test_who_may_not_rotate(registrar, keeper, clock):
    key = new_key()
    reply = registrar.enrol(request(claim(keeper, "watch-1"), key=key), "10.0.0.1")
    mine = reply.certificate
    denied(registrar, "signature", registrar.rotate, rotation(mine, new_key()))
    denied(registrar, "other-name", registrar.rotate, rotation(mine, key, "watch-2"))
    denied(registrar, "key-reused", registrar.rotate, rotation(mine, key, new=key))
    denied(registrar, "malformed", registrar.rotate, rotation("nonsense", key))
    clock.now -= 700
    denied(registrar, "certificate-early", registrar.rotate, rotation(mine, key))
    clock.now += 700 + 31 * 86_400
    denied(registrar, "certificate-expired", registrar.rotate, rotation(mine, key))


def test_a_certificate_of_another_ca_is_no_identity(registrar, keeper, tmp_path, clock):
    from schemas.fleet import FleetFolder, Lifetimes
    from server.fleet.authority import Authority

    registrar.enrol(request(claim(keeper, "watch-1")), "10.0.0.1")
    key, folder = new_key(), FleetFolder(tmp_path)
    other = Authority.create(folder, Lifetimes(), b"x" * 9, "fleet", clock)
    pem = other.issue_device("watch-1", key.public_key()).pem
    denied(registrar, "not-this-fleet", registrar.rotate, rotation(pem, key))
    service = keeper.folder.server / "certificate.pem"
    denied(registrar, "not-this-fleet", registrar.rotate, rotation(service.read_text(), key))


CN = NameOID.COMMON_NAME
BAD = {
    "csr-malformed": [
        "nonsense",
        csr("a") + csr("b"),
        csr("a").replace("A", "!", 1),
        csr("a")[:200] + "\n-----END CERTIFICATE REQUEST-----\n",
        csr([]),
        csr([(CN, "a"), (CN, "b")]),
        csr([(CN, "a"), (NameOID.ORGANIZATION_NAME, "o")]),
        *(csr(name) for name in ("../../etc/passwd", "a/b", "A", "-a", "a\n", "a b", "x" * 64)),
        *(csr(name) for name in ("a'; DROP TABLE devices;--", "a\x1b[2J", "flwr/v1/b", "+", "#")),
    ],
    "weak-key": [
        csr("a", ec.generate_private_key(ec.SECP192R1())),
        csr("a", rsa.generate_private_key(65537, 1024)),
        csr("a", ec.generate_private_key(ec.SECP256K1())),
    ],
    "csr-extensions": [
        csr("a", None, x509.BasicConstraints(ca=True, path_length=None)),
        csr("a", None, x509.SubjectAlternativeName([x509.DNSName("b")])),
        csr("a", None, x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\x05\0")),
        csr("a", attributes=[(AttributeOID.CHALLENGE_PASSWORD, b"p")]),
    ],
}


@pytest.mark.parametrize(
    ("error", "text"), [(error, text) for error, texts in BAD.items() for text in texts]
)
def test_requests_that_ask_for_more_or_are_weak(error, text):
    with pytest.raises(Denied) as caught:
        csrs.read(text)
    assert caught.value.error == error, str(caught.value)


def test_a_refusal_is_noted_without_what_was_secret(registrar, keeper):
    registrar.denied(Denied("claim-used", "claim x"), "10.0.0.1\nevil", "watch-1\x1b[2J")
    with keeper.registry.read() as db:
        (row,) = audit.newest(db, 1)
        assert list(audit.faults(db)) == []
    assert row.action == "enrol.refused"
    assert row.actor == "address:10.0.0.1\\x0aevil"
    assert row.subject.isprintable()


def test_a_claims_secret_is_not_in_the_database(registrar, keeper):
    token = claim(keeper, "watch-1")
    registrar.enrol(request(token), "10.0.0.1")
    with keeper.registry.read() as db:
        assert token.partition(".")[2] not in repr(rows(keeper.registry))
        assert not db.scalar(
            select(func.count()).select_from(Audit).where(Audit.detail.contains(token[13:]))
        )
