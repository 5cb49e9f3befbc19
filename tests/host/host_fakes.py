"""A guest's File service in memory, for the transfer engine: real semantics, no wire, and faults on demand."""

from __future__ import annotations

import hashlib
from typing import Any, Callable, Mapping

from host.backend import Reply
from host.errors import failure


class FakePending:
    def __init__(self, call: Callable[[], Reply]) -> None:
        self._call = call

    def result(self) -> Reply:
        return self._call()

    def cancel(self) -> None:
        pass


class FakeFiles:
    """Files by path (a directory is None); `calls` lists what was asked; `fault` may raise or change a reply."""

    def __init__(self, files: Mapping[str, bytes | None] | None = None) -> None:
        self.files: dict[str, bytes | None] = dict(files or {})
        self.calls: list[str] = []
        self.timeouts: list[float | None] = []
        self.fault: Callable[[str, Mapping[str, Any]], None] = lambda rpc, fields: None
        self.damage = False
        self.max_content: int | None = None
        """Bytes of content that a request may have; None for any."""
        self.identity = {"file_id": "1", "version": "1"}
        self._sessions: dict[str, tuple[dict[str, Any], bytearray]] = {}

    @property
    def open_sessions(self) -> int:
        return len(self._sessions)

    def start(self, rpc: str, fields: Mapping[str, Any]) -> FakePending:
        """A call that is made when its reply is asked for."""
        return FakePending(lambda: self.call(rpc, fields, None))

    def call(self, rpc: str, fields: Mapping[str, Any], timeout: float | None = None) -> Reply:
        self.calls.append(rpc)
        self.timeouts.append(timeout)
        self.fault(rpc, fields)
        if self.max_content is not None and len(fields.get("content", b"")) > self.max_content:
            raise failure("TOO_LARGE", f"the guest takes at most {self.max_content}")
        reply: Reply = getattr(self, f"_{rpc}")(fields)
        return reply

    def _target(self, fields: Mapping[str, Any]) -> str:
        path: str = fields["path"]
        if path in self.files and self.files[path] is None:
            raise failure("WRONG_FILE_TYPE", f"{path} is a directory")
        if path in self.files and not fields["overwrite"]:
            raise failure("FILE_EXISTS", f"{path} exists")
        return path

    def _Upload(self, fields: Mapping[str, Any]) -> Reply:
        path = self._target(fields)
        self.files[path] = fields["content"]
        return Reply({"path": path, "size": len(fields["content"]), "md5": self._md5(fields["content"])})

    def _InitUpload(self, fields: Mapping[str, Any]) -> Reply:
        session = f"s{len(self.calls)}"
        self._sessions[session] = {**fields, "path": self._target(fields)}, bytearray(fields["size"])
        chunk_size = min(2097152, self.max_content or 2097152)
        return Reply({"session_id": session, "chunk_size": chunk_size, "path": fields["path"]})

    def _UploadChunk(self, fields: Mapping[str, Any]) -> Reply:
        _, content = self._sessions[fields["session_id"]]
        content[fields["offset"] : fields["offset"] + len(fields["content"])] = fields["content"]
        return Reply({"session_id": fields["session_id"]})

    def _FinishUpload(self, fields: Mapping[str, Any]) -> Reply:
        begun, content = self._sessions.pop(fields["session_id"])
        if fields["md5"] != hashlib.md5(content).hexdigest():
            raise failure("CONTENT_MISMATCH", "the MD5 differs")
        self.files[begun["path"]] = bytes(content)
        return Reply({"path": begun["path"], "size": len(content), "md5": self._md5(content), "chunks_received": 1})

    def _AbortUpload(self, fields: Mapping[str, Any]) -> Reply:
        self._sessions.pop(fields["session_id"], None)
        return Reply({"session_id": fields["session_id"], "message": "removed"})

    def _Stat(self, fields: Mapping[str, Any]) -> Reply:
        content = self.files.get(fields["path"])
        kind = "directory" if content is None else "file"
        return Reply({"path": fields["path"], "exists": fields["path"] in self.files, "type": kind})

    def _Download(self, fields: Mapping[str, Any]) -> Reply:
        return self._piece(fields["path"], 0, fields["length"], "md5")

    def _DownloadChunk(self, fields: Mapping[str, Any]) -> Reply:
        return self._piece(fields["path"], fields["offset"], fields["size"], "chunk_md5")

    def _piece(self, path: str, offset: int, size: int, digest: str) -> Reply:
        whole = self.files.get(path)
        if whole is None:
            raise failure("FILE_NOT_FOUND", f"No such file: {path}", path=path)
        content = whole[offset : offset + size]
        data = {"path": path, "offset": offset, "size": len(content), "total_size": len(whole)}
        return Reply({**data, **self.identity, digest: self._md5(content)}, content)

    def _md5(self, content: bytes | bytearray) -> str:
        return "0" * 32 if self.damage else hashlib.md5(content).hexdigest()
