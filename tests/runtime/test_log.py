"""Loggers that load `logging` only when there is something to tell."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from vsrpc.log import Log


def test_what_is_told_is_the_modules_and_names_its_place(caplog: pytest.LogCaptureFixture) -> None:
    log = Log("some.module")
    with caplog.at_level(logging.DEBUG, logger="some.module"):
        log.debug("a %s", 1)
        log.warning("b %s", 2)
        try:
            raise OSError("gone")
        except OSError:
            log.exception("c %s", 3)
    assert [record.getMessage() for record in caplog.records] == ["a 1", "b 2", "c 3"]
    assert [record.levelname for record in caplog.records] == ["DEBUG", "WARNING", "ERROR"]
    assert {(record.name, record.module) for record in caplog.records} == {("some.module", "test_log")}
    assert "gone" in caplog.text


def test_debug_messages_do_not_load_it() -> None:
    program = (
        "import sys; from vsrpc.log import Log\n"
        "Log('x').debug('unheard'); print('logging' in sys.modules)\n"
        "Log('x').warning('heard'); print('logging' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
    assert done.stderr == "heard\n"
