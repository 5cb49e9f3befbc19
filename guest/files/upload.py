"""One upload in chunks: what has arrived, what is written, and its digest.

Chunks may come in any order, from several threads, and again. The digest is computed while chunks arrive, by a thread
beside those that write, so that it keeps none of them and the end of an upload has little left to do.
"""

from __future__ import annotations

import copy
import threading
from typing import Any, Callable

from guest.errors import error
from guest.files.content import BLOCK, SHA256, new_digest
from guest.files.ranges import Ranges
from guest.files.target import TargetFile
from guest.os_errors import printable
from vsrpc.admission import Budget
from vsrpc.errors import RpcError
from vsrpc.wire import Buffer

_LOOK = 0.2  # seconds after which whoever waits for the digest looks whether its caller still waits

_TURN = 16 * 1024 * 1024  # bytes of one upload that are digested before it is another one's turn

_SETTLE = 2.0  # seconds that an end waits for those who use the file just now


class UploadSession:
    """One upload. Its calls may be made by many threads; `submit` runs a function in another one."""

    def __init__(
        self,
        target: TargetFile,
        size: int,
        chunk_size: int,
        now: float,
        digest_early: bool,
        submit: Callable[[Callable[[], None]], object],
        budget: Budget,
        checksum: int = 0,
    ) -> None:
        self.used = now
        self.path = target.spec.path
        self.rule = target.rule
        self.size = size
        self.chunk_size = chunk_size
        self.chunks = 0
        self.closed = False
        self.checksum = checksum
        self.stream = False
        """Whether its size is said when it is finished."""
        self.resumable = target.resumable
        self._target = target
        self._submit = submit
        self._budget = budget
        self._changed = threading.Condition()  # all of it
        self._users = 0
        self._received = Ranges()
        self._writing: list[tuple[int, int]] = []
        self._digest_early = digest_early
        self._digest: Any = new_digest(checksum)
        self._digested = 0
        self._digesting = False  # in another thread, from `_digested` on
        self._finishing = 0  # threads that digest what is left themselves
        self._kept: dict[int, Buffer] = {}  # by their offsets
        self.failure: RpcError | None = None  # to write, which ended it

    # -- who uses it

    def enter(self) -> bool:
        """Begin to use it; False when it is closed."""
        with self._changed:
            if not self.closed:
                self._users += 1
            return not self.closed

    def leave(self, now: float) -> None:
        """End a use that enter() began."""
        with self._changed:
            self.used = now
            self._users -= 1
            self._discard_unused()

    def close_if_idle(self, oldest: float) -> bool:
        """Close it if nobody uses it, nor has since `oldest`."""
        if not self._changed.acquire(blocking=False):
            return False  # somebody does, and may take long
        try:
            if self._users or self.used > oldest:
                return False
            self._close()
            return True
        finally:
            self._changed.release()

    def close(self, keep: bool = True) -> None:
        """End the upload and remove what is not in place; does nothing the second time.

        `keep`: what another upload may go on with.
        """
        with self._changed:
            if not keep:
                self._target.resumable = False
            self._close()
            # So that it is removed when the caller hears of it, unless somebody's file system hangs.
            self._changed.wait_for(lambda: not self._writing and not self._digesting, _SETTLE)

    def _close(self) -> None:
        self.closed = True
        self._drop_kept()
        self._changed.notify_all()
        self._discard_unused()

    def _discard_unused(self) -> None:
        """Let go of the file, once no thread is in the middle of using it."""
        if self.closed and not self._writing and not self._digesting:
            self._target.discard()

    # -- what is done with it

    @property
    def received(self) -> int:
        """Bytes of the file that have arrived."""
        with self._changed:
            return self._received.total

    def write(self, offset: int, content: Buffer, hole: int = 0) -> None:
        """Take a chunk, or a hole in its place; one that has arrived already changes nothing.

        A failure to write ends the upload.
        """
        size = hole or len(content)
        end = offset + size
        if offset < 0 or end > self.size:
            message = f"Chunk of {size} bytes at offset {offset} is outside the file of {self.size} bytes"
            raise error("INVALID_PARAMS", f"{message} that was announced: {printable(self.path)}", offset=offset)
        with self._changed:
            while True:
                self._changed.wait_for(lambda: not any(start < end and offset < stop for start, stop in self._writing))
                if self.closed:
                    raise self._gone()
                if not size or (self._received.contains(offset, end) if hole else self._has(offset, content)):
                    return
                if not self._received.overlaps(offset, end):
                    break
                # What is in the digest, or waits for it, changes.
                if not self._digesting:
                    self._digest, self._digested = new_digest(self.checksum), 0
                    self._drop_kept()
                    break
                self._changed.wait_for(lambda: not self._digesting)
            self._writing.append((offset, end))
        written = False
        try:
            if hole:
                self._target.punch(offset, hole)
            else:
                self._target.write(content, offset)
            written = True
        except RpcError as failure:
            self.failure = self.failure or copy.copy(failure)  # without its traceback, which has the content
            raise
        finally:
            with self._changed:
                self._writing.remove((offset, end))
                if written:
                    self._take(offset, end, content)
                else:
                    self._target.resumable = False  # a full disk keeps nothing
                    self._close()
                self._changed.notify_all()
                self._discard_unused()

    def _take(self, offset: int, end: int, content: Buffer) -> None:
        """A chunk has been written."""
        self.chunks += 1
        self._received.add(offset, end)
        if self._digest_early and not self.closed:
            if len(content):
                self._keep(offset, content)
            self._digest_on()

    def present(self, offset: int, length: int, digest: str, go_on: Callable[[], None]) -> bool:
        """Whether a part is there already, left by an interrupted upload; it then counts as arrived."""
        if offset < 0 or length <= 0 or offset + length > self.size:
            message = f"A block at offset {offset} is outside the file of {self.size} bytes"
            raise error("INVALID_PARAMS", f"{message} that was announced: {printable(self.path)}", offset=offset)
        actual = new_digest(self.checksum)
        for start in range(offset, offset + length, BLOCK):
            go_on()
            wanted = min(BLOCK, offset + length - start)
            block = self._target.read(wanted, start)
            if len(block) < wanted:
                return False
            actual.update(block)
        if actual.hexdigest() != digest.lower():
            return False
        with self._changed:
            if self.closed:
                raise self._gone()
            self._received.add(offset, offset + length)
        return True

    def finish(self, wanted: str, go_on: Callable[[], None], size: int | None = None) -> str:
        """Check all that arrived and put it in place; returns its digest, or "" where that is not wanted.

        `size`: of the file, if it was not known before. Missing pieces leave the upload open, and so does `go_on`,
        which is called now and then and may raise.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._writing)
            if self.closed:
                raise self._gone()
            if size is not None:
                if self._received.overlaps(size, self.size):
                    message = f"More bytes have arrived than the {size} announced: {printable(self.path)}"
                    raise error("CONTENT_MISMATCH", f"{message} (upload again)", size=size)
                self.size = size
            gap = self._received.first_gap(self.size)
            if gap is not None:
                message = f"Bytes {gap[0]} to {gap[1] - 1} of {self.size} have not arrived: {printable(self.path)}"
                raise error("CONTENT_MISMATCH", f"{message} (send them, then finish again)", offset=gap[0], end=gap[1])
            self._target.set_size(self.size)
            actual = ""
            if wanted or self._digest_early:
                actual = self._whole_digest(go_on)
            self._target.resumable = False
            if wanted and wanted.lower() != actual:
                self._close()
                name = "SHA-256" if self.checksum == SHA256 else "MD5"
                message = f"{name} of what arrived is {actual}, not {wanted.lower()}: {printable(self.path)}"
                raise error("CONTENT_MISMATCH", f"{message} (the target is unchanged; upload again)", md5=actual)
            try:
                self._target.commit()
            finally:
                self._close()
            return actual

    def _gone(self) -> RpcError:
        if self.failure is not None:  # the cause, for whichever of the chunks under way is looked at first
            return copy.copy(self.failure)
        message = f"The upload has ended: {printable(self.path)} (begin it again)"
        return error("SESSION_NOT_FOUND", message, path=printable(self.path))

    def _has(self, offset: int, content: Buffer) -> bool:
        """Whether these very bytes are there: a chunk sent again after a lost reply."""
        end = offset + len(content)
        if not self._received.contains(offset, end):
            return False
        return self._target.read(len(content), offset) == content

    # -- the digest

    def _keep(self, offset: int, content: Buffer) -> None:
        if self._budget.take(len(content)):
            self._kept[offset] = content

    def _drop_kept(self) -> None:
        self._budget.give(sum(map(len, self._kept.values())))
        self._kept.clear()

    def _digest_on(self) -> None:
        """Have another thread digest what has arrived without a gap."""
        if not self._digesting and self._received.end_from(self._digested) > self._digested:
            self._digesting = True
            try:
                self._submit(self._run_digest)
            except RuntimeError:  # the daemon stops
                self._digesting = False

    def _run_digest(self) -> None:
        done = 0
        while True:
            with self._changed:
                try:
                    wanted = not self.closed and not self._finishing and done < _TURN
                    block = self._next_block() if wanted else b""
                except RpcError:  # who finishes meets it too
                    block = b""
                if not block:
                    self._digesting = False
                    if done >= _TURN and not self.closed and not self._finishing:
                        self._digest_on()  # after the other uploads
                    self._changed.notify_all()
                    self._discard_unused()
                    return
            self._digest.update(block)
            done += len(block)
            with self._changed:
                self._digested += len(block)

    def _next_block(self) -> Buffer:
        """What follows in the digest: as it arrived, or from the file; nothing where there is none yet."""
        kept = self._kept.pop(self._digested, None)
        if kept is not None:
            self._budget.give(len(kept))
            return kept
        end = min(self._received.end_from(self._digested), self._digested + BLOCK)
        end = min([end, *self._kept, *(start for start, stop in self._writing if stop > self._digested)])
        return self._target.read(end - self._digested, self._digested) if end > self._digested else b""

    def _whole_digest(self, go_on: Callable[[], None]) -> str:
        """Digest what is left, in this thread; the other one ends after its block."""
        self._finishing += 1
        try:
            while self._digested < self.size:
                go_on()
                if self._digesting:
                    self._changed.wait_for(lambda: not self._digesting, _LOOK)
                    continue
                if self.closed:
                    raise self._gone()
                block = self._next_block()
                if not block:
                    self._close()
                    shown = printable(self.path)
                    message = f"The temporary file was cut by somebody in the guest: {shown} (upload again)"
                    raise error("CONTENT_MISMATCH", message, path=shown)
                self._digest.update(block)
                self._digested += len(block)
            if self.closed:
                raise self._gone()
            return str(self._digest.hexdigest())
        finally:
            self._finishing -= 1
