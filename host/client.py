"""The Python client: one method per task, results as dictionaries in the REST envelope.

A thin layer over the typed stubs, for programs that want plain values. It knows tasks; wire formats are the backend's,
files the transfer engine's. Every failure of a call becomes an RPCError here.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Callable, Mapping, Sequence

import vsrpc
from host.backend import Backend, make_backend
from host.calls import Calls, FileCalls
from host.errors import RPCError, UsageError, from_rpc_error
from host.names import path_fields
from host.transfer_options import DEFAULT_CHUNK_SIZE, MD5, NEVER_SMALL, Progress
from vsrpc.errors import RpcError
from vsrpc.log import Log

if TYPE_CHECKING:
    from host.copy import Done
    from host.local import LocalGuest
    from vsrpc.auth import Key
    from vsrpc.channel import Channel

__all__ = ["RPCError", "UsageError", "VirtioRPCClient"]

log = Log(__name__)

# The guest ends a command at its timeout and then replies; the call may take this many seconds longer.
_EXEC_MARGIN = 10.0

# As `virsh` and `systemctl` do: long enough for a service that takes its time to stop.
_SERVICE_TIMEOUT = 95.0

# For some megabytes over a slow port, and a slow disk to unpack them to.
_UPDATE_TIMEOUT = 300.0


class VirtioRPCClient:
    """A client of one guest.

    `socket_path` is the UNIX socket of the port, or a target: "unix:PATH", "vsock:CID:PORT", "local:" (an embedded
    guest daemon). Times are in seconds; the defaults are those of host/config.yaml. `json=True` speaks JSON instead of
    protobuf. Use it as a context manager, or call connect() and disconnect(); without connect(), the first call
    connects. Threads may share it. `lock_dir` is where the clients of a port take turns (None: VSRPC_LOCK_DIR, or the
    user's own); `on_wait` is told who holds the port, where that must be waited for. `key` signs requests where the
    guest wants that.

    Results are {"code": 0, "message": "success", "timestamp": unix seconds, "data": {…}} with the fields of the
    schema as data. A call that fails raises RPCError; a local file that cannot be used raises OSError; an argument that
    cannot be right raises UsageError (a ValueError).
    """

    def __init__(
        self,
        socket_path: str,
        *,
        json: bool = False,
        connect_timeout: float = 5.0,
        read_timeout: float = 30.0,
        write_timeout: float = 30.0,
        max_retries: int = 3,
        retry_interval: float = 1.0,
        backoff_factor: float = 2.0,
        lock_dir: str | None = None,
        on_wait: Callable[[str], None] | None = None,
        key: Key | None = None,
    ) -> None:
        self._target = socket_path
        self._json = json
        self._options = vsrpc.ChannelOptions(
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
            write_timeout=write_timeout,
            max_retries=max_retries,
            retry_interval=retry_interval,
            backoff_factor=backoff_factor,
            lock_dir=lock_dir,
            on_wait=on_wait,
            key=key,
        )
        self._lock = threading.Lock()
        self._local: LocalGuest | None = None
        self._channel: Channel | None = None
        self._backend: Backend | None = None
        self._calls = Calls(lambda: self._connected()[1], lambda: self._connected()[0].give_way())
        self._files = FileCalls(self._calls)

    def connect(self, timeout: float | None = None) -> None:
        """Connect to the guest now, waiting for others who have the port until `timeout` (default: read_timeout).

        Raises RPCError, and UsageError for a target that is none.
        """
        try:
            self._connected()[0].connect(timeout)
        except RpcError as error:
            self.disconnect()
            raise from_rpc_error(error) from error

    def disconnect(self) -> None:
        """End the connection, and the embedded guest; a later call connects anew."""
        with self._lock:
            channel, self._channel, self._backend = self._channel, None, None
            local, self._local = self._local, None
        try:
            if channel is not None:
                channel.close()
        finally:
            if local is not None:
                local.close()

    def __enter__(self) -> VirtioRPCClient:
        self.connect()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.disconnect()

    @property
    def channel(self) -> Channel:
        """The channel, for typed stubs: SystemStub(client.channel).Info(). It connects at the first call."""
        return self._connected()[0]

    @property
    def calls(self) -> Calls:
        """Calls of any rpc by its names, for what has no method here: RemoteJob (host.jobs)."""
        return self._calls

    def call(
        self, service: str, rpc: str, fields: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        """Call any rpc of the schema by its names; `fields` are those of its request. Data: those of its response."""
        return self._call(service, rpc, fields, timeout)

    def ping(self, timeout: float | None = None) -> dict[str, Any]:
        """Whether the daemon answers. Data: timestamp, uptime, message."""
        return self._call("System", "Ping", timeout=timeout)

    def get_system_info(self) -> dict[str, Any]:
        """What the guest is. Data: fields of InfoResponse."""
        return self._call("System", "Info")

    def get_system_status(self) -> dict[str, Any]:
        """How the guest does. Data: fields of StatusResponse."""
        return self._call("System", "Status")

    def exec_command(
        self,
        command: str | Sequence[str],
        timeout: float = 30.0,
        working_dir: str = "",
        env: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Run a command line, or a program with arguments if `command` is a list. Data: fields of ExecResponse.

        A command that exits non-zero is no error: see data["exit_code"]. Output is text; where it is no valid UTF-8,
        data["stdout_invalid_utf8"] is true and data["stdout_base64"] has the exact bytes (stderr likewise).
        """
        fields: dict[str, Any] = {"timeout": timeout}
        if isinstance(command, str):
            fields["command"] = command
        else:
            fields["argv"] = list(command)
        if working_dir:
            fields["working_dir"] = working_dir
        if env:
            fields["env"] = dict(env)
        return self._call("Shell", "Exec", fields, timeout + _EXEC_MARGIN)

    def upload_file(
        self,
        local_path: str,
        remote_path: str,
        mode: str = "0644",
        overwrite: bool = True,
        *,
        owner: str = "",
        group: str = "",
        chunk_size: int = DEFAULT_CHUNK_SIZE,
        checksum: str = MD5,
        progress_callback: Progress | None = None,
    ) -> dict[str, Any]:
        """Write a local file to the guest, in chunks if it is larger than 2 MiB. Data: path, size, md5.

        A `remote_path` that is a directory stands for the file of the same name in it.
        """
        return self._upload(
            local_path,
            remote_path,
            mode=mode,
            owner=owner,
            group=group,
            overwrite=overwrite,
            chunk_size=chunk_size,
            checksum=checksum,
            progress=progress_callback,
        )

    def chunked_upload_file(
        self,
        local_path: str,
        remote_path: str,
        mode: str = "0644",
        overwrite: bool = True,
        *,
        owner: str = "",
        group: str = "",
        chunk_size: int = DEFAULT_CHUNK_SIZE,
        checksum: str = MD5,
        progress_callback: Progress | None = None,
    ) -> dict[str, Any]:
        """The same, in chunks whatever its size. Data: path, size, md5, chunks_received."""
        return self._upload(
            local_path,
            remote_path,
            mode=mode,
            owner=owner,
            group=group,
            overwrite=overwrite,
            chunk_size=chunk_size,
            checksum=checksum,
            small_file=NEVER_SMALL,
            progress=progress_callback,
        )

    def download_file(
        self,
        remote_path: str,
        local_path: str,
        overwrite: bool = True,
        *,
        chunk_size: int = DEFAULT_CHUNK_SIZE,
        checksum: str = MD5,
        progress_callback: Progress | None = None,
    ) -> dict[str, Any]:
        """Read a file of the guest into a local file, in chunks. Data: path, local_path, size, md5.

        A `local_path` that is a directory stands for the file of the same name in it.
        """
        return self._download(
            remote_path,
            local_path,
            overwrite=overwrite,
            chunk_size=chunk_size,
            checksum=checksum,
            progress=progress_callback,
        )

    chunked_download_file = download_file  # which always goes in chunks

    def get_file_info(self, path: str) -> dict[str, Any]:
        """Describe a file. Data: fields of StatResponse; `exists` is false where nothing is."""
        return self._call("File", "Stat", path_fields(path))

    def copy(
        self,
        sources: str | Sequence[str],
        dest: str,
        *,
        recursive: bool = False,
        preserve: bool = False,
        overwrite: bool = True,
        checksum: str = MD5,
        chunk_size: int = DEFAULT_CHUNK_SIZE,
        resume: bool = True,
        progress: Callable[[Done], None] | None = None,
    ) -> dict[str, Any]:
        """Copy files, and with `recursive` directories, between here and the guest, whose paths are `guest:/path`.

        As cp(1): into `dest` if that is a directory. `preserve`: also times, owners and all bits of the mode. What was
        interrupted goes on where it was, unless `resume` is false. Data: files, directories, links, bytes, sent (over
        the port), skipped. Where some were not copied, the others are, and INCOMPLETE is raised, whose data lists them;
        where it is all that there was, what was wrong with it is raised.
        """
        from host.copy import Options, checked, copy, preserving

        options = Options(preserving(preserve), overwrite, checksum, chunk_size, resume)
        sources = [sources] if isinstance(sources, str) else sources
        return _envelope(checked(copy(self._files, sources, dest, recursive, options, progress)))

    def sync(
        self,
        source: str,
        dest: str,
        *,
        delete: bool = False,
        compare_content: bool = False,
        owner: bool = False,
        checksum: str = MD5,
        progress: Callable[[Done], None] | None = None,
    ) -> dict[str, Any]:
        """Make the directory `dest` what the directory `source` is; one of them is `guest:/path`.

        Files of the same size and time are not copied; with `compare_content` those of the same content. Modes and
        times are kept, and with `owner` owners. Data and errors as `copy`, also unchanged, deleted.
        """
        from host.copy import Options, checked, preserving, sync

        options = Options(preserving(owner)._replace(mode=True, times=True), checksum=checksum)
        report = sync(
            self._files,
            source,
            dest,
            delete=delete,
            compare_content=compare_content,
            options=options,
            listener=progress,
        )
        return _envelope(checked(report))

    def control_service(self, name: str, action: str, timeout: float = _SERVICE_TIMEOUT) -> dict[str, Any]:
        """Start, stop, restart, enable or disable a system service, or tell its status.

        Data: fields of ControlResponse.
        """
        return self._call("ServiceManager", "Control", {"name": name, "action": action}, timeout)

    def begin_update(self, content: bytes, sha256: str, confirm_within: float = 0.0) -> dict[str, Any]:
        """Have the guest replace its daemon by the one of a guest bundle. Data: fields of UpdateResponse.

        The guest goes back by itself unless confirm_update() reaches the new daemon in so many seconds (0: 120);
        host.update.update() does all of it.
        """
        fields = {"content": content, "sha256": sha256, "confirm_within": confirm_within}
        return self._call("System", "Update", fields, _UPDATE_TIMEOUT)

    def confirm_update(self, update_id: str, timeout: float | None = None) -> dict[str, Any]:
        """Ask how an update goes, and keep the new daemon if it answers. Data: fields of ConfirmUpdateResponse."""
        return self._call("System", "ConfirmUpdate", {"update_id": update_id}, timeout)

    def _upload(self, local_path: str, remote_path: str, **options: Any) -> dict[str, Any]:
        from host.transfer import upload  # here, so that other commands need not load it

        return _envelope(upload(self._files, local_path, remote_path, **options))

    def _download(self, remote_path: str, local_path: str, **options: Any) -> dict[str, Any]:
        from host.transfer import download

        return _envelope(download(self._files, remote_path, local_path, **options))

    def _call(
        self, service: str, rpc: str, fields: Mapping[str, Any] | None = None, timeout: float | None = None
    ) -> dict[str, Any]:
        return _envelope(self._calls.reply(service, rpc, fields or {}, timeout).data)

    def _connected(self) -> tuple[Channel, Backend]:
        with self._lock:
            if self._channel is None or self._backend is None:
                self._channel = self._open_channel()
                self._backend = make_backend(self._channel, self._json)
                log.debug("calling %s as %s", self._channel.name, type(self._backend).__name__)
            return self._channel, self._backend

    def _open_channel(self) -> Channel:
        address = self._target
        if address == "local:":
            import logging

            from host.local import LocalGuest

            self._local = LocalGuest(debug=logging.getLogger(__name__).isEnabledFor(logging.DEBUG))
            address = self._local.target
        try:
            return vsrpc.connect(address, options=self._options)
        except ValueError as error:
            raise UsageError(str(error)) from None


def _envelope(data: dict[str, Any]) -> dict[str, Any]:
    return {"code": 0, "message": "success", "timestamp": int(time.time()), "data": data}
