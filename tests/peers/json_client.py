"""A JSON client as somebody writes it who has only the documented routes and fields: http.client over a UNIX socket.

It uses nothing of this project, and takes nothing for granted: every reply must be a complete envelope.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import socket
import uuid
from typing import Any, Mapping
from urllib.parse import urlencode


class ApiError(Exception):
    """A reply with a code other than 0."""

    def __init__(self, status: int, code: int, message: str, data: Mapping[str, Any]) -> None:
        super().__init__(f"HTTP {status}, code {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.data = data


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("guest", timeout=120)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class JsonClient:
    """Calls the routes over one connection that is kept."""

    def __init__(self, socket_path: str) -> None:
        self._connection = _UnixConnection(socket_path)

    def __enter__(self) -> JsonClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self._connection.close()

    def call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, query: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """The `data` of the reply. Raises ApiError."""
        target = f"{path}?{urlencode(query)}" if query else path
        return self.send(method, target, None if body is None else json.dumps(body).encode())

    def send(self, method: str, target: str, body: bytes | None) -> dict[str, Any]:
        """The same, of a request target and a body as they are."""
        request_id = str(uuid.uuid4())
        headers = {"X-Request-ID": request_id}
        if body is not None:
            headers["Content-Type"] = "application/json"
        self._connection.request(method, target, body, headers)
        reply = self._connection.getresponse()
        assert reply.headers["X-Request-ID"] == request_id
        assert float(reply.headers["X-Response-Time"]) >= 0
        assert reply.headers["Content-Type"] == "application/json"
        envelope = json.loads(reply.read())
        assert set(envelope) == {"code", "message", "timestamp", "data"}
        assert type(envelope["timestamp"]) is int
        data = envelope["data"]
        assert isinstance(data, dict)
        if envelope["code"]:
            raise ApiError(reply.status, envelope["code"], envelope["message"], data)
        assert (reply.status, envelope["message"]) == (200, "success")
        return data

    def upload(self, path: str, content: bytes) -> dict[str, Any]:
        """A file in chunks."""
        begun = self.call("POST", "/api/v1/file/chunked/upload/init", {"path": path, "size": len(content)})
        for offset in range(0, len(content), begun["chunk_size"]):
            chunk = content[offset : offset + begun["chunk_size"]]
            self.call(
                "POST",
                "/api/v1/file/chunked/upload/chunk",
                {"session_id": begun["session_id"], "offset": offset, "content": base64.b64encode(chunk).decode()},
            )
        return self.call(
            "POST",
            "/api/v1/file/chunked/upload/finish",
            {"session_id": begun["session_id"], "md5": hashlib.md5(content).hexdigest()},
        )

    def download(self, path: str) -> bytes:
        """A file in chunks."""
        content = bytearray()
        offset: int | None = 0
        while offset is not None:
            chunk = self.call("POST", "/api/v1/file/chunked/download", {"path": path, "offset": offset})
            content += base64.b64decode(chunk["content"], validate=True)
            offset = chunk.get("next_offset")
            assert chunk["has_more"] == (offset is not None)
        return bytes(content)
