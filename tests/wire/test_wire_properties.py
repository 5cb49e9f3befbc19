"""What holds for any bytes and any message, as properties.

The one sentence: whatever the bytes, and however they are cut, a connection yields the same events and then
perhaps one RemoteProtocolError, and nothing else.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from wire_driver import LIMITS, TE, TE_LINE, G, Role, cut, drive, get, post, single_bytes

from vsrpc.wire import ClientConnection, Headers, Limits, Refused, Request, Response, ServerConnection

roles = st.sampled_from([ServerConnection, ClientConnection])
points = st.lists(st.integers(0, 10000), max_size=20)

# Bytes that get past the first line: parts of messages, in any order, with some noise.
PARTS = [
    b"GET / HTTP/1.1\r\n", b"POST /x HTTP/1.1\r\n", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 \r\n", b"Host: g\r\n",
    b"Content-Length: 5\r\n", b"Content-Length: 60\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n",
    b"\r\n", b"\r", b"\n", b" ", b"hello", b"5\r\n", b"0\r\n", b"\r\n0\r\n\r\n", b"3c\r\n", b"A: b\r\n", b"\0", b";",
    G, post(TE_LINE), post(b"Content-Length: 5", b"Expect: 100-continue"), post(b"Content-Length: 60"),
]  # fmt: skip
soups = st.one_of(
    st.binary(max_size=300),
    st.lists(st.one_of(st.sampled_from(PARTS), st.binary(max_size=3)), max_size=15).map(b"".join),
    st.lists(st.sampled_from(PARTS), max_size=30).map(lambda parts: G + b"".join(parts)),
)


@given(role=roles, data=soups, points=points)
def test_any_bytes_in_any_split(role: Role, data: bytes, points: list[int]) -> None:
    whole = drive(role, [data])
    assert drive(role, cut(data, points)) == whole
    assert drive(role, single_bytes(data)) == whole


@given(role=roles, data=soups, more=soups)
def test_more_bytes_never_change_what_was_decided(role: Role, data: bytes, more: bytes) -> None:
    events, error = drive(role, [data])
    all_events, later_error = drive(role, [data + more])
    assert all_events[: len(events)] == events
    if error is not None:
        assert (all_events, later_error) == (events, error)


# Round trips

names = st.from_regex(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,12}", fullmatch=True).filter(
    lambda name: name.lower() not in ("host", "expect", "content-length", "transfer-encoding")
)
value_text = st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f")
values = st.text(value_text, max_size=20).map(lambda text: text.strip(" \t"))
fields = st.lists(st.tuples(names, values), max_size=20)
targets = st.from_regex(r"/[a-z0-9._~!$&'()*+,;=:@/-]{0,30}(%[0-9A-F]{2}){0,3}(\?[a-z0-9?/=&-]{0,30})?", fullmatch=True)
bodies = st.one_of(st.binary(max_size=100), st.integers(30000, 200000).map(lambda size: b"\r\n0\r\n\r\n" * (size // 7)))
requests = st.builds(
    Request,
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "VERSION-CONTROL"]),
    target=targets,
    headers=fields.map(lambda items: Headers([("host", "g"), *items])),
    body=bodies,
    tail=bodies,
    room=st.none(),
)
responses = st.builds(
    Response,
    status=st.integers(200, 599).filter(lambda status: status not in (204, 304)),
    headers=fields.map(Headers),
    body=bodies,
    tail=bodies,
    reason=st.text(value_text, min_size=1, max_size=20),
)


def received(message: Request | Response) -> Request | Response:
    """The message as its receiver sees it: with the length that sending adds, and the body in one piece."""
    body = b"".join((message.body, message.tail))
    headers = Headers([*message.headers, ("content-length", str(len(body)))])
    if isinstance(message, Request):
        return Request(message.method, message.target, headers, body)
    return Response(message.status, headers, body, message.reason)


@given(messages=st.lists(requests, max_size=4), points=points)
def test_requests_arrive_as_sent(messages: list[Request], points: list[int]) -> None:
    client = ClientConnection()
    data = b"".join(bytes(part) for message in messages for part in client.send(message))
    assert drive(ServerConnection, cut(data, points), Limits()) == ([received(m) for m in messages], None)


@given(messages=st.lists(responses, max_size=4), points=points)
def test_responses_arrive_as_sent(messages: list[Response], points: list[int]) -> None:
    server = ServerConnection()
    data = b"".join(bytes(part) for message in messages for part in server.send(message))
    assert drive(ClientConnection, cut(data, points), Limits()) == ([received(m) for m in messages], None)


def in_chunks(body: bytes, points: list[int]) -> bytes:
    pieces = [piece for piece in cut(body, points) if piece]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@given(body=st.integers(0, 100).map(bytes), chunks=points, points=points)
def test_chunks_are_joined_or_skipped_exactly(body: bytes, chunks: list[int], points: list[int]) -> None:
    data = post(TE_LINE, body=in_chunks(body, chunks)) + G
    events, error = drive(ServerConnection, cut(data, points))
    assert error is None
    if len(body) <= LIMITS.max_body:
        assert events == [get(TE, method="POST", body=body), get()]
    else:
        assert [type(event) for event in events] == [Refused, Request]
        assert events[1] == get()
