"""Schemas that cannot be generated: each gives one line that says where, what and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from codegen_driver import request

from vsrpc.codegen.__main__ import generate
from vsrpc.codegen.model import SchemaError

# The rpc of every case stands on line 6.
HEAD = """syntax = "proto3";
package p;
import "google/api/annotations.proto";
import "vsrpc/options/v1/options.proto";
service S {
%s
}
message Req { string id = 1; repeated string many = 2; Sub sub = 3; map<string, string> pairs = 4; }
message Flat { string id = 1; repeated string many = 2; }
message Sub {}
message Res {}
%s
"""


def rpc(http: str, request_type: str = "Flat", name: str = "Get") -> str:
    return f"rpc {name}({request_type}) returns (Res) {{ option (google.api.http) = {{{http}}}; }}"


WHERE = "a.proto:6: rpc p.S.Get: "

RPC_CASES = {
    "same route twice": (
        rpc('get: "/x/{id}" additional_bindings: {get: "/x/{id}"}'),
        WHERE + "route GET /x/{id} collides with GET /x/{id} of a.proto:6: rpc p.S.Get",
    ),
    "same shape, other variable": (
        rpc('get: "/x/{id}" additional_bindings: {get: "/x/{nr}"}').replace("Flat", "Two"),
        WHERE + "routes /x/{nr} and /x/{id} differ only in names of variables",
    ),
    "an rpc's own path": (
        rpc('post: "/p.S/Get" body: "*"'),
        WHERE + "route POST /p.S/Get collides with rpc p.S.Get itself",
    ),
    "unknown variable": (
        rpc('get: "/x/{nope}"'),
        WHERE + "route GET /x/{nope}: variable 'nope' is not a field of p.Flat",
    ),
    "unknown body": (
        rpc('post: "/x" body: "nope"'),
        WHERE + "route POST /x: body 'nope' is not a field of p.Flat",
    ),
    "repeated variable field": (
        rpc('get: "/x/{many}"'),
        WHERE + "route GET /x/{many}: variable 'many' is not a single",
    ),
    "message variable field": (rpc('post: "/x/{sub}" body: "*"', "Req"), "variable 'sub' is not a single scalar"),
    "variable twice": (rpc('get: "/x/{id}/{id}"'), WHERE + "route '/x/{id}/{id}' names a variable twice"),
    "body and variable": (rpc('post: "/x/{id}" body: "id"'), "'id' is both body and variable"),
    "message in a query": (rpc('get: "/x"', "Req"), "field 'sub' of p.Req is a message or map, which a query cannot"),
    "map in a query": (
        rpc('post: "/x" body: "sub"', "Req"),
        "field 'pairs' of p.Req is a message or map, which a query cannot carry",
    ),
    "wildcard": (rpc('get: "/x/*"'), WHERE + "route '/x/*': segment '*' is not supported"),
    "double wildcard": (rpc('get: "/x/**"'), "segment '**' is not supported"),
    "sub-pattern": (rpc('get: "/x/{id=b/*}"'), "segment '{id=b' is not supported"),
    "verb": (rpc('get: "/x/{id}:cancel"'), "segment '{id}:cancel' is not supported"),
    "nested field": (rpc('get: "/x/{sub.id}"', "Req"), "segment '{sub.id}' is not supported"),
    "part of a segment": (rpc('get: "/x/v{id}"'), "segment 'v{id}' is not supported"),
    "empty segment": (rpc('get: "/x//y"'), "segment '' is not supported"),
    "query in a template": (rpc('get: "/x?y=1"'), "segment 'x?y=1' is not supported"),
    "quote in a template": (rpc(r'get: "/x\"y"'), "is not supported"),
    "no slash": (rpc('get: "x"'), WHERE + "route 'x' must begin with \"/\""),
    "no method": (rpc('body: "*"'), WHERE + "google.api.http needs one of get, put, post, delete, patch, not None"),
    "custom method": (rpc('custom: {kind: "HEAD" path: "/x"}'), "get, put, post, delete, patch, not custom"),
    "body of a get": (rpc('get: "/x" body: "*"'), WHERE + "get '/x' has a body"),
    "body of a delete": (rpc('delete: "/x" body: "*"'), WHERE + "delete '/x' has a body"),
    "response body": (rpc('get: "/x" response_body: "id"'), WHERE + "response_body 'id' is not supported"),
    "bindings in bindings": (
        rpc('get: "/x" additional_bindings: {get: "/y" additional_bindings: {get: "/z"}}'),
        WHERE + "additional_bindings inside additional_bindings",
    ),
    "server streaming": ("rpc Get(Flat) returns (stream Res);", WHERE + "streaming rpcs are not supported"),
    "client streaming": ("rpc Get(stream Flat) returns (Res);", WHERE + "streaming rpcs are not supported"),
    "keyword as rpc": (
        "rpc import(Flat) returns (Res);",
        "a.proto:6: rpc p.S.import: 'import' cannot be a Python method's name; rename it",
    ),
    "dunder as rpc": ("rpc __init__(Flat) returns (Res);", "'__init__' cannot be a Python method's name"),
    "keyword as request": ("rpc Get(None) returns (Res);", WHERE + "type p.None has a Python keyword as name"),
    "keyword as outer of a reply": ("rpc Get(Flat) returns (None.Inner);", "type p.None.Inner has a Python keyword"),
    "constants collide": (
        "rpc GetIt(Flat) returns (Res);\nrpc get_it(Flat) returns (Res);",
        "a.proto: a.proto:7: rpc p.S.get_it: its constant S_GET_IT is taken by a.proto:6: rpc p.S.GetIt; rename one",
    ),
    "constant of the service": (
        "rpc Service(Flat) returns (Res);",
        "its constant S_SERVICE is taken by service p.S; rename one",
    ),
}

TYPE_CASES = {
    "bad rpc_code": (
        'enum E { Z = 0; E_X = 1 [(vsrpc.options.v1.error) = {http_status: 404 rpc_code: "GONE"}]; }',
        "a.proto:15: E_X: rpc_code 'GONE' is not one of CANCELLED, UNKNOWN, INVALID_ARGUMENT",
    ),
    "rpc_code of success": (
        'enum E { Z = 0; E_X = 1 [(vsrpc.options.v1.error) = {rpc_code: "OK"}]; }',
        "a.proto:15: E_X: rpc_code 'OK' is not one of",
    ),
    "bad http_status": (
        'enum E { Z = 0; E_X = 1 [(vsrpc.options.v1.error) = {http_status: 42 rpc_code: "UNKNOWN"}]; }',
        "a.proto:15: E_X: http_status 42 is not between 200 and 599",
    ),
    "number twice": (
        "enum E { option allow_alias = true; Z = 0;"
        ' E_X = 1 [(vsrpc.options.v1.error) = {rpc_code: "UNKNOWN"}];'
        ' E_Y = 1 [(vsrpc.options.v1.error) = {rpc_code: "UNKNOWN"}]; }',
        "a.proto:15: E_Y: number 1 is taken by X",
    ),
    "number of success": (
        'enum E { Z = 0 [(vsrpc.options.v1.error) = {rpc_code: "UNKNOWN"}]; }',
        "a.proto:15: Z: number 0 means success",
    ),
    "text of a string": (
        "message T { string s = 1 [(vsrpc.options.v1.text) = true]; }",
        "a.proto:15: field T.s: (vsrpc.options.v1.text) is for a single bytes field, not for string",
    ),
    "text of many": (
        "message T { repeated bytes s = 1 [(vsrpc.options.v1.text) = true]; }",
        "a.proto:15: field T.s: (vsrpc.options.v1.text) is for a single bytes field, not for repeated bytes",
    ),
    "text's name taken": (
        "message T { bytes s = 1 [(vsrpc.options.v1.text) = true]; string s_base64 = 2; }",
        "a.proto:15: field T.s: (vsrpc.options.v1.text) needs the JSON name 's_base64', which another field has",
    ),
    "dunder as service": ("service __S {}", "a.proto: service p.__S begins with two underscores; rename it"),
}
MORE_TYPES = "message Two { string id = 1; string nr = 2; }\nmessage None { message Inner {} }\n\n"


def failure(directory: Path, files: dict[str, str], parameter: str = "") -> str:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    with pytest.raises(SchemaError) as caught:
        generate(request(directory, files, parameter))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("case", RPC_CASES)
def test_rpc(case: str, tmp_path: Path) -> None:
    text, expected = RPC_CASES[case]
    assert expected in failure(tmp_path, {"a.proto": HEAD % (text, MORE_TYPES)})


@pytest.mark.parametrize("case", TYPE_CASES)
def test_type(case: str, tmp_path: Path) -> None:
    text, expected = TYPE_CASES[case]
    assert expected in failure(tmp_path, {"a.proto": HEAD % ("", MORE_TYPES + text)})


def test_routes_of_two_files_collide(tmp_path: Path) -> None:
    one = HEAD % (rpc('get: "/x"'), "")
    two = one.replace("package p;", "package q;")
    expected = (
        "b.proto:6: rpc q.S.Get: route GET /x collides with GET /x of a.proto:6: rpc p.S.Get; change one of the two"
    )
    assert failure(tmp_path, {"a.proto": one, "b.proto": two}) == expected


@pytest.mark.parametrize(("name", "part"), [("class/a.proto", "class"), ("a b.proto", "a b"), ("1st.proto", "1st")])
def test_file_names_that_no_module_can_have(name: str, part: str, tmp_path: Path) -> None:
    message = failure(tmp_path, {name: 'syntax = "proto3";'})
    assert message == f"{name}: {part!r} in the file's path cannot be in a Python module's name; rename it"


@pytest.mark.parametrize("parameter", ["openapi", "openapi=", "openapi=a,b=c", "other=x"])
def test_unknown_parameter(parameter: str, tmp_path: Path) -> None:
    message = failure(tmp_path, {"a.proto": 'syntax = "proto3";'}, parameter)
    assert message == f"unknown plugin parameter {parameter!r}; the only one is openapi=PATH"


def test_the_same_schema_without_a_fault_is_generated(tmp_path: Path) -> None:
    (tmp_path / "a.proto").write_text(
        HEAD % (rpc('get: "/x/{id}" additional_bindings: {post: "/x" body: "*"}'), MORE_TYPES)
    )
    assert sorted(generate(request(tmp_path, ["a.proto"]))) == ["a_pb2.py", "a_tables.py", "a_vsrpc.py"]
