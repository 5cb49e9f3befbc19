"""Messages as JSON and as REST requests, with the generator's own test schema: every kind of field is in it."""

from __future__ import annotations

import base64
import json
import time
from typing import Any, Callable

import pytest
from runtime_world import EXEC, World

from vsrpc import RpcError
from vsrpc.codec import dump_json, from_json, load_json, parse_proto, to_json
from vsrpc.error_table import ErrorTable
from vsrpc.v1.shell_pb2 import ExecRequest, ExecResponse


@pytest.fixture(scope="module")
def shapes() -> Any:
    from tricky.v1 import shapes_pb2

    return shapes_pb2


@pytest.fixture
def golden(make_world: Callable[..., World]) -> World:
    from tricky.v1.shapes_tables import ERROR_CODES
    from tricky.v1.shapes_vsrpc import MORE_SHAPES_SERVICE, SHAPES_SERVICE

    return make_world(services=[SHAPES_SERVICE, MORE_SHAPES_SERVICE], dispatcher={"errors": ErrorTable(ERROR_CODES)})


def roundtrip(message: Any, text_fields: Any = None) -> Any:
    return json.loads(dump_json(to_json(message, text_fields)))


# -- messages to JSON


def test_defaults_are_printed_in_snake_case(shapes: Any) -> None:
    assert roundtrip(shapes.Outer(inner=shapes.Outer.Inner())) == {
        "inner": {"id": 0, "kinds": []},
        "deepest": [],
        "by_name": {},
        "kind_of": {},
        "blobs": {},
        "output": "",
        "class": False,
        "None": 0,
        "self": "",
        "renamed": "",
        "secret": "",
        "color": "COLOR_UNSPECIFIED",
        "numbers": [],
    }


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, 0),
        (-1, -1),
        (2**53 - 1, 2**53 - 1),
        (1 - 2**53, 1 - 2**53),
        (2**53, "9007199254740992"),  # a reader's double would round the next one
        (-(2**53), "-9007199254740992"),
        (2**63 - 1, "9223372036854775807"),
    ],
)
def test_64_bit_integers(shapes: Any, number: int, shown: Any) -> None:
    inner = shapes.Outer.Inner(id=number)
    message = shapes.Outer(inner=inner, by_name={"a": inner}, recursive=shapes.Outer(inner=inner))
    value = roundtrip(message)
    assert value["inner"]["id"] == value["by_name"]["a"]["id"] == value["recursive"]["inner"]["id"] == shown
    assert type(value["inner"]["id"]) is type(shown)
    assert from_json(shapes.Outer, value) == message
    assert from_json(shapes.Outer.Inner, {"id": number}) == inner
    assert from_json(shapes.Outer.Inner, {"id": str(number)}) == inner


def test_every_kind_of_field_comes_back(shapes: Any) -> None:
    message = shapes.Outer(
        inner=shapes.Outer.Inner(id=5, kinds=[1, -1], flag=False),
        deepest=[shapes.Outer.Inner.Deepest(raw=b"\0\xff")],
        kind_of={7: 1},
        blobs={True: b"x"},
        text="Grüße",
        ratio=0.5,
        color=1,
        numbers=[1, 2],
    )
    message.at.FromSeconds(1_700_000_000)
    value = roundtrip(message)
    assert value["deepest"] == [{"raw": "AP8="}]
    assert value["inner"]["kinds"] == ["KIND_ROUND", "KIND_NEGATIVE"]
    assert value["inner"]["flag"] is False
    assert value["kind_of"] == {"7": "KIND_ROUND"}
    assert value["blobs"] == {"true": "eA=="}
    assert value["at"] == "2023-11-14T22:13:20Z"
    assert from_json(shapes.Outer, value) == message


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_json_lacks_are_strings(shapes: Any, number: float) -> None:
    value = roundtrip(shapes.Outer(ratio=number))
    assert value["ratio"] in ("NaN", "Infinity", "-Infinity")
    assert str(from_json(shapes.Outer, value).ratio) == str(number)


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"", {"output": ""}),
        ("Grüße\n\0".encode(), {"output": "Grüße\n\0"}),
        (b"a\xffb", {"output": "a\ufffdb", "output_invalid_utf8": True, "output_base64": "Yf9i"}),
    ],
)
def test_text_fields(shapes: Any, data: bytes, shown: dict[str, Any]) -> None:
    value = roundtrip(shapes.Outer(output=data, recursive=shapes.Outer(output=data)), {"tricky.v1.Outer": ("output",)})
    for part in (value, value["recursive"]):
        assert {key: item for key, item in part.items() if key.startswith("output")} == shown
    assert roundtrip(shapes.Outer(output=data))["output"] == base64.b64encode(data).decode()


# -- JSON to messages


def test_both_spellings_of_a_name_are_taken(shapes: Any) -> None:
    for name in ("by_name", "byName"):
        assert from_json(shapes.Outer, {name: {"a": {"id": 1}}}).by_name["a"].id == 1
    for name in ("renamed", "RENAMED"):
        assert from_json(shapes.Outer, {name: "x"}).renamed == "x"


def test_null_is_the_default(shapes: Any) -> None:
    assert from_json(shapes.Outer, {"self": None, "inner": None, "numbers": None}) == shapes.Outer()


@pytest.mark.parametrize("text", ["+/8=", "-_8=", "+/8", "-_8"])
def test_base64_in_every_form(shapes: Any, text: str) -> None:
    assert from_json(shapes.Outer, {"output": text}).output == b"\xfb\xff"


WRONG = [
    # value → what the message names
    ({"inner": {"id": "x"}}, "id"),
    ({"inner": {"id": 1.5}}, "id"),
    ({"inner": {"id": 2**63}}, "id"),
    ({"inner": {"id": True}}, "id"),
    ({"inner": {"id": {}}}, "id"),
    ({"id_only": 1, "self": 5}, "unknown field 'id_only'"),
    ({"self": 5}, "self is 5; a string of Unicode text is expected"),
    ({"class": "true"}, 'class is "true"; true or false is expected'),
    ({"output": 5}, "output is 5; base64 in a string is expected"),
    ({"ratio": "much"}, 'ratio is "much"; a number is expected'),
    ({"ratio": "m" * 100}, '"mmm'),
    ({"color": "COLOR_NONE"}, 'color is "COLOR_NONE"; a name or number of'),
    ({"at": None, "self": 5}, "self is 5"),
    ({"inner": 5}, "inner"),
    ({"inner": "x"}, "inner"),
    ({"inner": []}, "inner is an array, not an object"),
    ({"inner": {"kinds": ["KIND_SQUARE"]}}, "kinds"),
    ({"inner": {"kinds": "KIND_ROUND"}}, "kinds"),
    ({"inner": {"kinds": [None]}}, "kinds"),
    ({"inner": {"nope": 1}}, "nope"),
    ({"nope": 1}, "unknown field 'nope'; the fields are: None, at, blobs"),
    ({"self": 5}, "self"),
    ({"self": "\ud800"}, "self"),
    ({"self": ["x"]}, "self"),
    ({"class": "true"}, "class"),
    ({"class": 1}, "class"),
    ({"output": "*"}, "output is not base64"),
    ({"output": "plain text!"}, "output is not base64"),
    ({"output": "ab+_"}, "output is not base64"),
    ({"output": "YQ==" + "YQ=="}, "output is not base64"),
    ({"output": "YQ\n"}, "output is not base64"),
    ({"output": "Y"}, "output"),
    ({"blobs": {"true": "*"}}, "blobs['true'] is not base64"),
    ({"deepest": [{}, {"raw": "*"}]}, "deepest[1].raw is not base64"),
    ({"recursive": {"output": "*"}}, "recursive.output is not base64"),
    ({"output": 5}, "output"),
    ({"numbers": [1, -1]}, "numbers"),
    ({"numbers": 1}, "numbers"),
    ({"numbers": {"0": 1}}, "numbers"),
    ({"by_name": [1]}, "by_name"),
    ({"by_name": {"a": 1}}, "by_name"),
    ({"blobs": {"maybe": ""}}, "blobs"),
    ({"kind_of": {"x": 1}}, "kind_of"),
    ({"deepest": [5]}, "deepest"),
    ({"deepest": [{"raw": 5}]}, "raw"),
    ({"at": "yesterday"}, "at"),
    ({"ratio": "much"}, "ratio"),
    ({"ratio": []}, "ratio"),
    ({"color": "COLOR_NONE"}, "color"),
    ({"color": 1.5}, "color"),
    ({"text": "a", "recursive": {}}, "choice"),
    ({"by_name": {}, "byName": {}}, "by_name is given twice, under both of its names"),
    ({"recursive": {"recursive": {"self": 1}}}, "self"),
]


@pytest.mark.parametrize(
    ("value", "named"), WRONG, ids=lambda value: json.dumps(value) if isinstance(value, dict) else ""
)
def test_a_wrong_value_names_its_field(shapes: Any, value: dict[str, Any], named: str) -> None:
    with pytest.raises(RpcError) as caught:
        from_json(shapes.Outer, value)
    assert caught.value.reason == "INVALID_PARAMS"
    assert named in caught.value.details()
    assert len(caught.value.details()) < 300


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "not valid JSON"),
        (b"{}x", "not valid JSON: Extra data"),
        (b"[]", "a JSON array, not an object"),
        (b"null", "a JSON null, not"),
        (b"true", "a JSON boolean, not"),
        (b"5", "a JSON number, not"),
        (b'"x"', "a JSON string, not"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1, "b": 2, "a": 3}', "the name 'a' comes twice"),
        (b'{"a": {"b": 1, "b": 1}}', "the name 'b' comes twice"),
        (b'{"a": "\xff"}', "not UTF-8: invalid start byte at byte 7"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
        (b'{"a": "\x00"}', "control character"),
    ],
    ids=lambda value: repr(value[:20]) if isinstance(value, bytes) else "",
)
def test_bodies_that_are_no_json_object(body: bytes, message: str) -> None:
    with pytest.raises(RpcError) as caught:
        load_json(body)
    assert caught.value.reason == "JSON_PARSE_ERROR"
    assert message in caught.value.details()


def test_fields_come_in_the_schemas_order_whatever_they_hold(shapes: Any) -> None:
    filled = shapes.Outer(inner=shapes.Outer.Inner(kinds=[1]), ratio=1.5)
    names = [field.name for field in shapes.Outer.DESCRIPTOR.fields]
    shown = to_json(filled)
    assert list(shown) == [name for name in names if name in shown]
    assert list(shown["inner"]) == ["id", "kinds"]


def test_no_body_is_an_empty_object() -> None:
    assert load_json(b"") == {}


def test_nesting_beyond_what_protobuf_takes_is_an_error(world: World) -> None:
    deep = '{"recursive":' * 500 + "{}" + "}" * 500
    from tricky.v1 import shapes_pb2

    with pytest.raises(RpcError) as caught:
        from_json(shapes_pb2.Outer, json.loads(deep))
    assert caught.value.reason == "INVALID_PARAMS"


# -- protobuf


def wire_field(number: int, data: bytes) -> bytes:
    """A length-delimited field with a number below 16 or of two bytes."""
    tag = number << 3 | 2
    return (bytes([tag]) if tag < 128 else bytes([tag & 127 | 128, tag >> 7])) + bytes([len(data)]) + data


UNKNOWN = wire_field(200, b"new")


@pytest.mark.parametrize(
    ("where", "body", "message_type"),
    [
        ("at the top", UNKNOWN, "Outer"),
        ("in a message", wire_field(1, UNKNOWN), "Outer"),
        ("in a repeated message", wire_field(2, b"") + wire_field(2, UNKNOWN), "Outer"),
        ("in a map's value", wire_field(3, wire_field(1, b"key") + wire_field(2, UNKNOWN)), "Outer"),
        ("in a oneof", wire_field(7, UNKNOWN), "Outer"),
        ("two levels down", wire_field(7, wire_field(1, UNKNOWN)), "Outer"),
        ("in a message without messages", UNKNOWN, "PatchRequest"),
    ],
)
def test_a_field_that_the_schema_lacks_is_refused(shapes: Any, where: str, body: bytes, message_type: str) -> None:
    with pytest.raises(
        RpcError, match=f"tricky.v1.{message_type} has no field 200: the caller's schema is newer"
    ) as caught:
        parse_proto(getattr(shapes, message_type), body)
    assert (caught.value.reason, caught.value.data) == ("INVALID_PARAMS", {"field": "200"})


def test_known_fields_are_no_unknown_ones(shapes: Any) -> None:
    message = shapes.Outer(
        by_name={"a": shapes.Outer.Inner(id=1)}, blobs={True: b"x"}, deepest=[shapes.Outer.Inner.Deepest()], numbers=[1]
    )
    assert parse_proto(shapes.Outer, message.SerializeToString()) == message


def test_an_unknown_field_reaches_nobody(world: World) -> None:
    ran: list[Any] = []
    world.handlers.set("Exec", lambda request, context: ran.append(request) or ExecResponse())
    peer = world.peer()
    peer.request("POST", EXEC, ExecRequest(command="x").SerializeToString() + UNKNOWN, content_type="application/proto")
    response = peer.response()
    assert response.status == 400
    assert b"vsrpc.v1.ExecRequest has no field 200" in response.body
    peer.rpc(EXEC, {"comand": "x"})
    assert b"unknown field 'comand'; the fields are: argv, command, env, timeout, working_dir" in peer.response().body
    assert ran == []


# -- REST requests


REST: list[tuple[str, str, str, dict[str, Any]]] = [
    # HTTP method, target, body → the request that the servicer sees, as JSON
    ("GET", "/shapes/5/draw", "", {"id": 5}),
    ("GET", "/shapes/-9223372036854775808/draw", "", {"id": "-9223372036854775808"}),
    (
        "GET",
        "/shapes/5/draw?kinds=KIND_ROUND&kinds=KIND_NEGATIVE",
        "",
        {"id": 5, "kinds": ["KIND_ROUND", "KIND_NEGATIVE"]},
    ),
    ("GET", "/shapes/5/draw?kinds=1&flag=false", "", {"id": 5, "kinds": ["KIND_ROUND"], "flag": False}),
    ("GET", "/shapes/5/draw?flag=true", "", {"id": 5, "flag": True}),
    ("GET", "/shapes/5/draw?", "", {"id": 5}),
    ("POST", "/shapes/draw", "", {}),
    ("POST", "/shapes/draw", '{"id": 9007199254740993}', {"id": "9007199254740993"}),
    ("POST", "/shapes/draw", '{"id": "7", "kinds": [1]}', {"id": 7, "kinds": ["KIND_ROUND"]}),
    ("PUT", "/shapes/5/kinds", '["KIND_ROUND"]', {"id": 5, "kinds": ["KIND_ROUND"]}),
    ("PUT", "/shapes/5/kinds?flag=true", "[]", {"id": 5, "flag": True}),
    ("DELETE", "/bare?name=a+b%2Fc%26d%3D%C3%BC", "", {"name": "a b/c&d=ü"}),
    ("DELETE", "/bare?name=", "", {}),
    ("PATCH", "/shapes/a%2Fb%20c", "{}", {"from": "a/b c", "outer": {}}),
    (
        "PATCH",
        "/shapes/x?revision=18446744073709551615&tags=a&tags=b",
        '{"self": "s"}',
        {"from": "x", "revision": "18446744073709551615", "tags": ["a", "b"], "outer": {"self": "s"}},
    ),
]


@pytest.mark.parametrize(
    ("method", "target", "body", "expected"), REST, ids=lambda value: value if isinstance(value, str) else ""
)
def test_rest_requests(
    golden: World, shapes: Any, method: str, target: str, body: str, expected: dict[str, Any]
) -> None:
    from tricky.elsewhere import common_types_pb2

    seen: list[Any] = []
    for name, reply in (
        ("Draw", shapes.Outer),
        ("HTTPStatusOf2Things", common_types_pb2.Common),
        ("patch_it", shapes.Outer),
    ):
        golden.handlers.set(name, lambda request, context, reply=reply: seen.append(request) or reply())  # type: ignore[misc]
    peer = golden.peer()
    peer.request(method, target, body.encode())
    response = peer.response()
    assert response.status == 200, bytes(response.body)
    (request,) = seen
    assert request == from_json(type(request), expected)


WRONG_REST = [
    ("GET", "/shapes/x/draw", "", "id"),
    ("GET", "/shapes/%ff/draw", "", "the path '%ff' is not UTF-8"),
    ("GET", "/shapes/5/draw?id=6", "", "'id' is given twice"),
    ("GET", "/shapes/5/draw?flag=yes", "", "flag='yes' is not true or false"),
    ("GET", "/shapes/5/draw?flag=true&flag=true", "", "'flag' is given twice"),
    ("GET", "/shapes/5/draw?kinds=KIND_SQUARE", "", "kinds"),
    ("GET", "/shapes/5/draw?nope=1", "", "unknown query parameter 'nope'; the parameters are: flag, id, kinds"),
    ("PUT", "/shapes/5/kinds", "{}", "kinds"),
    ("PUT", "/shapes/5/kinds", "", "not valid JSON"),
    ("PUT", "/shapes/5/kinds?kinds=1", "[1]", "'kinds' is in the body"),
    ("PATCH", "/shapes/x?outer=1", "{}", "unknown query parameter 'outer'"),
    ("PATCH", "/shapes/x?revision=-1", "{}", "revision"),
    ("PATCH", "/shapes/x", "[]", "outer"),
]


@pytest.mark.parametrize(("method", "target", "body", "message"), WRONG_REST)
def test_wrong_rest_requests(golden: World, method: str, target: str, body: str, message: str) -> None:
    peer = golden.peer()
    peer.request(method, target, body.encode())
    response = peer.response()
    assert response.status == 400
    assert message in json.loads(bytes(response.body))["message"]


@pytest.mark.parametrize(
    "target", ["/shapes//draw", "/shapes/5/draw/", "/shapes/5/6/draw", "/Shapes/5/draw", "//shapes/5/draw"]
)
def test_paths_that_are_no_route(golden: World, target: str) -> None:
    peer = golden.peer()
    peer.request("GET", target)
    assert f"no such route: GET {target}" in json.loads(bytes(peer.response().body))["message"]


def test_a_route_of_the_shape_of_an_rpc_path(golden: World, shapes: Any) -> None:
    golden.handlers.set("Draw", lambda request, context: shapes.Outer(text="drawn"))
    peer = golden.peer()
    peer.request("POST", "/shapes/draw", b"{}")
    assert json.loads(bytes(peer.response().body))["data"]["text"] == "drawn"
    peer.request("GET", "/shapes/draw")
    response = peer.response()
    assert response.headers.get("allow") == "PATCH, POST"
    assert "data" in json.loads(bytes(response.body)), "the envelope, as on every route"


def test_the_schemas_own_error_codes(golden: World) -> None:
    from vsrpc import Code

    def handler(request: Any, context: Any) -> Any:
        raise RpcError(Code.OUT_OF_RANGE, "as round as can be", reason="TOO_ROUND", data={"limit": "7"})

    golden.handlers.set("Draw", handler)
    peer = golden.peer()
    peer.request("POST", "/shapes/draw", b"{}")
    response = peer.response()
    value = json.loads(bytes(response.body))
    assert (response.status, value["code"], value["message"], value["data"]) == (
        422,
        7001,
        "as round as can be",
        {"limit": "7"},
    )


def test_the_envelope(world: World) -> None:
    world.handlers.set("Exec", lambda request, context: ExecResponse(stdout=b"out\n", exit_code=3, duration_ms=12))
    peer = world.peer()
    peer.request("POST", "/api/v1/shell/exec", b'{"command":"x"}')
    value = json.loads(bytes(peer.response().body))
    assert (value["code"], value["message"]) == (0, "success")
    assert abs(value["timestamp"] - time.time()) < 60
    assert value["data"]["stdout"] == "out\n"
    assert value["data"]["exit_code"] == 3
    assert value["data"]["duration_ms"] == 12
    assert value["data"]["stderr_truncated"] is False
