"""Keys and key files, what a signature covers, and that nothing shows a secret."""

from __future__ import annotations

import logging
import os
import traceback
from pathlib import Path
from typing import Any, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runtime_keys import KEY, OTHER, SECRET, Clock, authorization, judge, key_file
from runtime_world import World

from vsrpc import ChannelOptions, Code, Key, RpcError
from vsrpc.auth import SIGNED_FIELDS, Challenge, parse_keys, sign
from vsrpc.authenticator import Authenticator, NotAuthentic
from vsrpc.keyfile import KeyFile, KeyFileError, read_keys
from vsrpc.v1.system_vsrpc import SystemStub
from vsrpc.wire import Headers, Request

INSTANCE = "0f9f6a2c52b14b3f8d3a3f0f4f1f7c55"

# Every field that is signed, so that a change in each is seen.
FIELDS = {
    "connect-timeout-ms": "5000",
    "content-encoding": "identity",
    "content-type": "application/json",
    "idempotency-key": "k",
    "vsrpc-instance": INSTANCE,
    "vsrpc-retry-age-ms": "17",
    "x-request-id": "i",
}


def request(body: bytes = b'{"command": "uptime"}', **parts: Any) -> Request:
    return Request(**{"method": "POST", "target": "/x?a=b", "headers": Headers(FIELDS.items()), "body": body, **parts})


def heard(judging: Authenticator) -> Challenge:
    """A challenge as a client has it."""
    challenge = Challenge.parse(str(judging.challenge(INSTANCE)))
    assert challenge is not None
    return challenge


def accepts(judging: Authenticator, asked: Request) -> bool:
    try:
        judging.verify(asked, judging.read(asked, INSTANCE))
    except NotAuthentic:
        return False
    return True


def test_the_form_is_that_of_the_protocol() -> None:
    """Signed by hand after PROTOCOL.md, and by us: the same."""
    assert set(FIELDS) == set(SIGNED_FIELDS)
    asked = request()
    signed = sign(asked, KEY, Challenge(INSTANCE, 1735312345000)).headers.get("authorization") or ""
    parts = dict(part.split("=") for part in signed.partition(" ")[2].split(", "))
    del parts["signature"]
    by_hand = authorization(Challenge(INSTANCE, 0), "POST", "/x?a=b", FIELDS, bytes(asked.body), **parts)
    assert signed == by_hand


@given(st.data())
def test_any_byte_that_is_changed_is_noticed(data: st.DataObject) -> None:
    judging = judge()
    asked = sign(request(), KEY, heard(judging))
    pairs = dict(asked.headers)
    what = data.draw(st.sampled_from(["method", "target", "body", *pairs]))
    old = {"method": asked.method.encode(), "target": asked.target.encode(), "body": bytes(asked.body)}.get(
        what, pairs.get(what, "").encode()
    )
    place = data.draw(st.integers(0, len(old) - 1))
    new = bytearray(old)
    new[place] ^= data.draw(st.integers(1, 255))
    if what == "body":
        changed = asked._replace(body=bytes(new))
    elif what in ("method", "target"):
        changed = asked._replace(**{what: new.decode("latin-1")})
    else:
        changed = asked._replace(headers=Headers.parsed({**pairs, what: new.decode("latin-1")}.items()))
    assert not accepts(judging, changed)
    assert accepts(judging, asked)


@given(st.sampled_from(SIGNED_FIELDS), st.booleans())
def test_a_signed_field_that_is_added_or_taken_away_is_noticed(name: str, added: bool) -> None:
    judging = judge()
    few = Headers((other, value) for other, value in FIELDS.items() if other != name)
    before, after = (few, Headers(FIELDS.items())) if added else (Headers(FIELDS.items()), few)
    asked = sign(request(headers=before), KEY, heard(judging))
    signature = ("authorization", asked.headers.get("authorization") or "")
    assert not accepts(judging, asked._replace(headers=Headers([*after, signature])))
    assert accepts(judging, asked)


def test_the_rest_of_a_body_is_signed_as_part_of_it() -> None:
    judging = judge()
    asked = sign(request(b"", tail=memoryview(b"content")), KEY, heard(judging))
    assert accepts(judging, asked._replace(body=b"content", tail=b""))


def test_a_field_cannot_be_moved_into_another() -> None:
    """The text that is signed has a line for each thing, and nothing in it can hold a line's end."""
    judging = judge()
    asked = sign(request(headers=Headers([("x-request-id", "1")])), KEY, heard(judging))
    signature = ("authorization", asked.headers.get("authorization") or "")
    for headers in (Headers([("content-type", "x-request-id: 1"), signature]), Headers([signature])):
        assert not accepts(judging, asked._replace(headers=headers))


# -- keys


def test_a_key_file_of_all_forms() -> None:
    text = f"# for the fleet\n\nhost1 {SECRET}\n  host-2.b_c   {SECRET.upper()}ff  \n#host3 x\n"
    assert list(parse_keys(text)) == ["host1", "host-2.b_c"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "there is no key in it"),
        ("# nothing\n\n", "there is no key in it"),
        (SECRET, "line 1: not of the form NAME SECRET"),
        (f"\nhost 1 {SECRET}", "line 2: not of the form"),
        (f"höst {SECRET}", "line 1: not of the form"),
        (f"{'n' * 65} {SECRET}", "line 1: not of the form"),
        (f"host1 {SECRET[:-1]}", "line 1: not of the form"),
        (f"host1 {SECRET[:-1]}x", "line 1: not of the form"),
        (f"host1 {SECRET[:-2]}", "line 1: the secret of key host1 has 15 bytes: at least 16 are needed"),
        (f"host1 {SECRET} {SECRET}", "line 1: not of the form"),
        (f"host1 {SECRET}\nhost1 {SECRET}", "line 2: a key named host1 stands above"),
    ],
)
def test_what_is_no_key_file_is_told_without_its_secrets(text: str, says: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_keys(text)
    assert says in str(caught.value)
    assert SECRET[:-2] not in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "a,b", "a\n", "ä", "n" * 65])
def test_a_strange_name_makes_no_key(name: str) -> None:
    with pytest.raises(ValueError, match="a key's name is"):
        Key(name, bytes(16))


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_private_file_is_read(tmp_path: Path, mode: int) -> None:
    assert list(read_keys(key_file(tmp_path / "keys", f"b {SECRET}\na {SECRET}", mode))) == ["b", "a"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o666])
def test_a_file_that_others_can_get_at_is_refused(tmp_path: Path, mode: int) -> None:
    path = key_file(tmp_path / "keys", f"host1 {SECRET}", mode)
    with pytest.raises(KeyFileError) as caught:
        read_keys(path)
    assert str(caught.value) == f"{path}: mode {mode:04o} lets others at the keys: chmod 600 {path}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_file_is_refused(tmp_path: Path) -> None:
    path = key_file(tmp_path / "keys", f"host1 {SECRET}")
    os.chown(path, 1, 1)
    with pytest.raises(KeyFileError, match="belongs to user 1, who can read and change the keys: chown it to root"):
        read_keys(path)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "No such file or directory; to make one: (umask 077; echo"),
        (lambda path: path.mkdir(mode=0o700), "Is a directory"),
        (lambda path: key_file(path, "höst 00"), "characters other than ASCII"),
        (lambda path: key_file(path, "# none"), "there is no key in it"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, make: Callable[[Path], Any], says: str) -> None:
    make(tmp_path / "keys")
    with pytest.raises(KeyFileError) as caught:
        read_keys(str(tmp_path / "keys"))
    assert str(caught.value).startswith(f"{tmp_path}/keys: ")
    assert says in str(caught.value)


def test_keys_are_changed_without_a_gap(tmp_path: Path) -> None:
    clock = Clock()
    path = tmp_path / "keys"
    old, new = f"old {SECRET}\n", f"new {SECRET}\n"
    keys = KeyFile(key_file(path, old), clock)
    assert list(keys()) == ["old"]
    key_file(path, old + new)
    assert list(keys()) == ["old"], "it is not looked at with each request"
    for text, names in ((old + new, ["old", "new"]), (new, ["new"])):
        key_file(path, text)
        clock.now += 1
        assert list(keys()) == names


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.chmod(0o644), "mode 0644"),
        (lambda path: key_file(path, "host1 x"), "line 1: not of the form"),
        (lambda path: path.write_text(""), "there is no key in it"),
    ],
)
def test_a_new_version_that_cannot_be_used_lets_nobody_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], Any], says: str
) -> None:
    """It may have been written to take a key away."""
    clock = Clock()
    path = tmp_path / "keys"
    keys = KeyFile(key_file(path, f"host1 {SECRET}"), clock)
    spoil(path)
    with caplog.at_level(logging.ERROR, "vsrpc.keyfile"):
        for _ in range(3):
            clock.now += 1
            with pytest.raises(RpcError, match="its key file cannot be used; its log says why") as caught:
                keys()
            assert caught.value.code() is Code.UNAVAILABLE
    assert [says in record.getMessage() for record in caplog.records] == [True], "told once"
    key_file(path, f"host1 {SECRET}")
    clock.now += 1
    assert list(keys()) == ["host1"]


# -- secrets


def test_nothing_shows_a_secret(make_world: Callable[..., World], caplog: pytest.LogCaptureFixture) -> None:
    """Not the key's or the options' form as text, nor the log, nor the traceback of a call, even one with variables."""
    shown = [repr(OTHER), str(OTHER), repr(ChannelOptions(key=OTHER))]
    assert shown[0] == "Key('host2')"
    world = make_world(authenticator=judge(KEY))
    with caplog.at_level(logging.DEBUG):
        try:
            SystemStub(world.channel(key=OTHER)).Ping()
        except RpcError as error:
            frames = traceback.TracebackException.from_exception(error, capture_locals=True)
            shown += list(frames.format())
    assert any("no key host2" in text for text in shown)
    for text in [*shown, caplog.text]:
        assert bytes(range(32)).hex() not in text
        assert repr(bytes(range(32)))[2:20] not in text
