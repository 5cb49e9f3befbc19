"""Exit codes: one per class of failure, the same for every command except exec.

`exec` exits with the remote command's own code, so its own failures are EXEC_BASE higher: few programs exit with
200 or more, and signals end at 192.
"""

from __future__ import annotations

from host.errors import RPCError

OK = 0
LOCAL_FAULT = 1
USAGE = 2
CONNECTION = 3
REFUSED = 4
REMOTE = 5
TIMEOUT = 6
PROTOCOL = 7
OUTCOME_UNKNOWN = 8
LOST_OUTPUT = 9
EXEC_BASE = 200
LIKE_EXEC = ("exec", "shell", "attach")
INTERRUPTED = 130
TERMINATED = 143
BROKEN_PIPE = 141

_OF_REASON = {
    "INVALID_PARAMS": USAGE,
    "MISSING_REQUIRED": USAGE,
    "CONNECTION_LOST": CONNECTION,
    "CONNECTION_REFUSED": CONNECTION,
    "SERVICE_UNAVAILABLE": CONNECTION,
    "PERMISSION_DENIED": REFUSED,
    "UNAUTHENTICATED": REFUSED,
    "CMD_TIMEOUT": TIMEOUT,
    "READ_TIMEOUT": TIMEOUT,
    "WRITE_TIMEOUT": TIMEOUT,
    "DEADLINE_EXCEEDED": TIMEOUT,
    "PROTOCOL_ERROR": PROTOCOL,
    "ENDPOINT_NOT_FOUND": PROTOCOL,
    "METHOD_NOT_ALLOWED": PROTOCOL,
    "JSON_PARSE_ERROR": PROTOCOL,
    "UNSUPPORTED_MEDIA_TYPE": PROTOCOL,
    "INCOMPLETE": REMOTE,
    "OUTCOME_UNKNOWN": OUTCOME_UNKNOWN,
}

HELP = f"""\
exit codes:
  {OK}    success
  {LOCAL_FAULT}    output could not be written, or a defect of this program
  {USAGE}    the command line, the configuration, a local file or a value in the request is wrong
  {CONNECTION}    no connection: no such socket, nobody listens, connection lost, the guest is stopping
  {REFUSED}    refused by the guest's policy or permissions
  {REMOTE}    the guest could not do it (no such file, disk full, service failed, no such command …)
  {TIMEOUT}    timeout, nobody answers, or another client holds the port
  {PROTOCOL}    what answers is not a vsrpc guest, or not of a version that fits
  {OUTCOME_UNKNOWN}    the link was lost, and whether the call took effect is not known: look before you call again
  {INTERRUPTED}  interrupted (Ctrl-C)
  {BROKEN_PIPE}  the reader of the output has left
  {TERMINATED}  terminated by a signal
exec exits with the remote command's exit code (128+N if signal N killed it); its own failures are {EXEC_BASE} higher:
{EXEC_BASE + LOCAL_FAULT} output could not be written, {EXEC_BASE + USAGE} wrong usage, \
{EXEC_BASE + CONNECTION} no connection, {EXEC_BASE + REFUSED} refused, \
{EXEC_BASE + REMOTE} not started, {EXEC_BASE + TIMEOUT} timeout, {EXEC_BASE + PROTOCOL} protocol, \
{EXEC_BASE + OUTCOME_UNKNOWN} outcome not known, {EXEC_BASE + LOST_OUTPUT} output was lost; \
124 if it ran into its timeout."""


def of_error(error: RPCError) -> int:
    """The exit code of a call that failed."""
    return of_reason(error.reason)


def of_reason(reason: str) -> int:
    """The exit code that goes with an error code's short name."""
    return _OF_REASON.get(reason, REMOTE)
