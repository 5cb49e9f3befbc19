"""Run by the matrix in an isolated interpreter: a call through the whole runtime, by stub, in JSON, and on a route.

Arguments: directories for sys.path. Any exception is a failure.
"""

from __future__ import annotations

import json
import sys
import threading


def main() -> None:
    sys.path[:0] = sys.argv[1:]
    from vsrpc.channel import Channel, ChannelOptions
    from vsrpc.dispatcher import Dispatcher
    from vsrpc.errors import RpcError
    from vsrpc.server import Server
    from vsrpc.status import Code
    from vsrpc.transports.memory import MemoryListener
    from vsrpc.v1 import shell_pb2, shell_vsrpc

    class Shell(shell_vsrpc.ShellServicer):
        def Exec(self, request, context):  # type: ignore[no-untyped-def]
            if request.command != "say":
                context.abort(Code.NOT_FOUND, "no " + request.command)
            return shell_pb2.ExecResponse(stdout=b"ok \xff", duration_ms=2**40, exit_code=int(request.timeout))

    dispatcher = Dispatcher()
    shell_vsrpc.add_ShellServicer_to_server(Shell(), dispatcher)
    server = Server(dispatcher)
    listener = MemoryListener()
    thread = threading.Thread(target=server.serve, args=(listener,))
    thread.start()
    try:
        for codec in ("proto", "json"):
            with Channel("memory:", listener.connect, ChannelOptions(codec=codec)) as channel:
                stub = shell_vsrpc.ShellStub(channel)
                reply = stub.Exec(shell_pb2.ExecRequest(command="say", timeout=3, env={"A": "1"}), timeout=30)
                assert (reply.stdout, reply.duration_ms, reply.exit_code) == (b"ok \xff", 2**40, 3), reply
                error = stub.Exec.future(shell_pb2.ExecRequest(command="nothing"), timeout=30).exception()
                assert isinstance(error, RpcError)
                assert (error.code(), error.details()) == (Code.NOT_FOUND, "no nothing"), error
        unknown = b"\xf8\x07\x01"  # field 127, which the schema lacks
        with Channel("memory:", listener.connect) as channel:
            response = channel.http(
                "POST", "/vsrpc.v1.Shell/Exec", headers=[("content-type", "application/proto")], body=unknown
            )
            assert response.status == 400, response
            assert b"no field 127" in bytes(response.body), response
            body = json.dumps({"command": "say"}).encode()
            response = channel.http(
                "POST", "/api/v1/shell/exec", headers=[("content-type", "application/json")], body=body
            )
            data = json.loads(bytes(response.body))["data"]
            expected = {"duration_ms": 2**40, "stderr": "", "stdout_invalid_utf8": True, "stdout_base64": "b2sg/w=="}
            assert {name: data[name] for name in expected} == expected, data
    finally:
        server.stop()
        thread.join()


main()
