"""Which commands may run, with which arguments and which environment, by default."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest
from exec_helpers import SPEC_COMMANDS, Guest

from guest.policy.arguments import RULES
from guest.policy.commands import DEFAULT_COMMANDS, CommandPolicy, lookup
from guest.policy.environment import SAFE_PATH, command_environment
from guest.policy.paths import PathPolicy
from vsrpc.errors import RpcError


def refusal(policy: CommandPolicy, argv: list[str], directory: str = "/") -> RpcError | None:
    """The error for a command, or None when it is allowed (whether or not this machine has it)."""
    try:
        policy.check(argv, directory)
    except RpcError as error:
        return None if error.reason == "CMD_NOT_FOUND" else error
    return None


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandPolicy:
    # The rules are judged for every listed program, also for those that this machine does not have.
    monkeypatch.setattr("guest.policy.commands._find", lambda program, directory: f"/usr/bin/{program}")
    (tmp_path / "file").write_text("x")
    (tmp_path / "secret").symlink_to("/etc/shadow")
    return CommandPolicy([], PathPolicy([str(tmp_path)]))


def test_the_default_list_is_the_documented_one() -> None:
    assert sorted(SPEC_COMMANDS) == sorted(DEFAULT_COMMANDS)
    assert set(RULES) >= DEFAULT_COMMANDS


ALLOWED = """
    ls
    ls -la --color=auto /usr
    ls -I '*.o' --sort size file
    cat file - -n
    cat /dev/null
    head -5 file
    head -n 5 file
    tail -n+2 file
    tail -fn 5 file
    grep -rn x .
    grep -e x -- file
    grep -5i /etc/shadow file
    grep -A 3 --color=never 'a b' file
    find . -name -x -o -mtime -7 -type f -printf %p
    find -L . ( -size +10k ! -empty ) -prune
    find . -newer file -newermt 2020-01-01
    wc -l file
    df -h /
    du -sh --max-depth 1 .
    free -m
    top -bn1
    top -b -n 1 -o %CPU
    ps
    ps aux
    ps -aux
    ps auxww --sort=-%mem
    ps -ef
    ps -eo pid,etime,args
    ps axo pid,state
    ps ax -o pid,etime
    ps -u root -o pid=
    ps -p 1,2
    ps -C sleep
    ps -fC sleep
    ps -fu root
    ps -eLf
    ps -eT
    ps -efH
    ps -ef --forest
    ps -ejH
    ps aux k -rss
    ps -eHo pid,args --sort=-rss
    date
    date -u +%s
    date -d @0 -R
    date --date 'TZ="America/Los_Angeles" 09:00 next Fri'
    date -r file +%s
    hostname -f
    uname -a
    id root
    env
    env -0
    which -a ls /bin/sh
    file -b file
    stat -c %s file
    md5sum -b file
    ip a
    ip -4 -br addr show dev lo
    ip route get 10.0.0.1
    ip r s
    ip link show
    ip neigh
    ip netns list
    ip route show 10.0.0.0/8
    ip route show table vpn proto bird
    ip -6 route get fe80::1 dev lo
    ip link show lo
    ip link show type bridge up
    ip addr show lo scope host
    ip neigh show dev lo nud reachable
    ip rule list lookup main
    ss -tlnp
    ss -t state established
    ss -tn dst 10.0.0.1 'sport = :22' dev lo
    ss -tn 'dst [fe80::1%lo]:22'
    netstat -tlnp
    ping -c 3 -i 0.5 ::1
    ping -I lo -c 1 fe80::1%lo
    ping -I 127.0.0.1 -c 1 localhost
    uptime -p
    netstat -i
    netstat -A inet -rn
    systemctl
    systemctl status sshd --no-pager
    systemctl list-units --type=service
    systemctl is-active x
    journalctl -u sshd -n 50
    journalctl -b -1 -p err --since today
    journalctl _PID=1 + _PID=2
    sleep 1
    echo -n anything /etc/shadow '$(x)'
    /bin/ls
"""

REFUSED = """
    rm x                             | Command not allowed: rm (
    ./ls                             | Command not allowed: ./ls (
    /tmp/ls                          | Command not allowed: /tmp/ls (
    sh -c ls                         | Command not allowed: sh (
    LS                               | Command not allowed: LS (
    cd /                             | set working_dir
    cat /etc/shadow                  | Path not in allowed list: /etc/shadow
    cat -n -- /etc/passwd            | Path not in allowed list: /etc/passwd
    cat secret                       | it leads to /etc/shadow
    cat file ../../../../etc/passwd  | etc/passwd
    cat /proc/self/environ           | Path not in allowed list
    cat /proc/self/cwd/file          | it leads through /proc
    cat /dev/fd/../cwd/file          | it leads through /proc
    grep -r x /proc/self/root/tmp    | it leads through /proc
    ls /proc/thread-self/cwd/        | it leads through /proc
    head -c 5 /etc/passwd            | /etc/passwd
    tail -n 5 /etc/passwd            | /etc/passwd
    tail -5 /etc/passwd              | /etc/passwd
    tail --follow=name /etc/passwd   | /etc/passwd
    head -5c file                    | head -5
    grep x /etc/passwd               | /etc/passwd
    grep -e x /etc/passwd            | /etc/passwd
    grep /etc/passwd -e x            | /etc/passwd
    grep -f /etc/passwd file         | /etc/passwd
    grep -nf/etc/passwd file         | /etc/passwd
    grep --file=/etc/passwd file     | /etc/passwd
    grep --file /etc/passwd file     | /etc/passwd
    grep --fil=/etc/passwd file      | write it in full
    grep --exclude-from=/etc/passwd x file | /etc/passwd
    grep -r x /etc                   | Path not in allowed list: /etc
    grep -r x                        | Path not in allowed list: /
    grep -R x .                      | grep -R (it follows links
    grep -d recurse x .              | grep -d recurse
    grep --directories=recurse x .   | grep -directories recurse
    wc -l /etc/passwd                | /etc/passwd
    wc --files0-from=file            | wc --files0-from
    wc --files0-from file            | wc --files0-from
    wc --files0 file                 | wc --files0
    du --files0-from=file            | du --files0-from
    du -X /etc/passwd .              | /etc/passwd
    md5sum /etc/passwd               | /etc/passwd
    md5sum -c file                   | md5sum -c
    sha256sum --check file           | sha256sum --check
    sha256sum -bc file               | sha256sum -c
    file /etc/shadow                 | /etc/shadow
    file -C -m file                  | file -C
    file -f file                     | file -f
    file -m file x                   | file -m
    file -z file                     | file -z
    ls /proc/1                       | /proc/1
    ls /root/x                       | /root/x
    ls --invented                    | ls --invented
    stat /proc/1/environ             | /proc/1/environ
    find . -exec id ;                | find -exec
    find . -execdir id ;             | find -execdir
    find . -ok id ;                  | find -ok
    find . -okdir id ;               | find -okdir
    find . -delete                   | find -delete
    find . -name -delete             | find -delete
    find . -fprint x                 | find -fprint
    find . -fprint0 x                | find -fprint0
    find . -fprintf x y              | find -fprintf
    find . -fls x                    | find -fls
    find -files0-from file           | find -files0-from
    find . -newer /proc/1            | /proc/1
    find . -invented                 | find -invented
    find -D exec .                   | find -D
    find /proc                       | /proc
    env ls                           | env ls
    env X=1 ls                       | env X=1
    env -i ls                        | env ls
    env -S 'ls -l'                   | env -S
    env --split-string=ls            | env --split-string
    env --chdir=/ ls                 | env --chdir
    date -s tomorrow                 | date -s
    date --set=tomorrow              | date --set
    date --se=tomorrow               | date --se
    date -us tomorrow                | date -s
    date 010112002030                | without '+FORMAT' sets the clock
    date -f file                     | date -f (its lines could name time zones
    date --file=file                 | date --file
    date -uf/etc/passwd              | date -f
    date -d 'TZ="/etc/shadow" 0'     | the time zone is not a plain name
    date --date ' TZ="../x" 0'       | the time zone is not a plain name
    date -d 'TZ="Europe/../x" 0'     | the time zone is not a plain name
    date -d 'TZ="a" TZ="/x" 0'       | the time zone is not a plain name
    find . -newermt 'TZ="/x" 0'      | the time zone is not a plain name
    find . -newerat 'TZ="/x" 0'      | the time zone is not a plain name
    hostname evil                    | hostname evil
    hostname -F file                 | hostname -F
    hostname -b evil                 | hostname -b
    ip netns exec x ls               | ip netns exec
    ip netns add x                   | ip netns add
    ip -batch file                   | ip -batch
    ip -b file                       | ip -b
    ip -n x link show                | ip -n
    ip --force -batch file           | ip -force
    ip link set lo down              | ip link set
    ip link s lo down                | ip link s
    ip addr add 1.2.3.4/8 dev lo     | ip addr add
    ip a a 1.2.3.4/8 dev lo          | ip a a
    ip route flush all               | ip route flush
    ip xfrm state                    | ip xfrm
    ip vrf exec x ls                 | ip vrf exec
    ip monitor file x                | ip monitor
    ip link show type ../../tmp/x    | ip ../../tmp/x
    ip link help softdog             | no network interface has that name
    ip addr show softdog             | no network interface has that name
    ip addr show dev softdog         | no network interface has that name
    ip addr show dev softdog:1       | no network interface has that name
    ip addr show dev ad7280a:1       | no network interface has that name
    ip addr show fe80::1%softdog     | no network interface has that name
    ip addr show table softdog       | no network interface has that name
    ip route show table x dev dummy  | no network interface has that name
    ip vrf show dummy                | no network interface has that name
    ip tunnel show dummy             | no network interface has that name
    ip maddr show dummy              | no network interface has that name
    ss -K dst 1.2.3.4                | ss -K
    ss --kill                        | ss --kill
    ss -tK                           | ss -K
    ss -D x                          | ss -D
    ss -F /etc/passwd                | ss -F
    ss -N x                          | ss -N
    ss dev softdog                   | no network interface has that name
    ss 'dev = softdog'               | no network interface has that name
    ss -t '(dev!=softdog)'           | no network interface has that name
    ss dev eq softdog                | no network interface has that name
    ss -t dst 'fe80::1%softdog'      | no network interface has that name
    ss 'src [fe80::1%softdog]:22'    | no network interface has that name
    netstat -i softdog               | no network interface has that name
    netstat -I=softdog               | netstat -I
    netstat --interfaces=softdog     | --interfaces takes no value
    ls --all=x                       | --all takes no value
    netstat -A /x                    | not a list of address families
    which /root/x                    | Path not in allowed list: /root/x
    which -a ls /proc/1/exe          | /proc/1/exe
    uptime file                      | it would read the file
    file -S file                     | file -S
    top                              | top without -b
    top -n 1                         | top without -b
    ps e                             | environment
    ps auxe                          | environment
    ps -auxe                         | no such user
    ps -axe                          | environment
    ps -e aux                        | environment
    ps -e -x                         | environment
    ps -x -u axe                     | no such user
    ps -aux -C axe                   | environment
    ps -eTH                          | -L, -T and -H together
    ps -eT --forest                  | environment
    ps -eLT                          | -L, -T and -H together
    ps -ec -o args -T                | it does not take c
    ps -e -O p                       | it does not take O
    ps -em --deselect --forest       | it does not take --deselect
    ps -ef 1                         | it does not take 1
    ps -TH -C axe                    | environment
    ps -cC axe                       | environment
    ps -cu root                      | environment
    ps -p 99999999999                | no such user, number or format
    ps -ef -o args                   | it does not take f with -o
    ps -eMo args                     | it does not take M with -o
    ps -em                           | it does not take m
    ps -elu root --format args       | it does not take l with -o
    ps --personality                 | ps --personality
    ping -f ::1                      | ping -f
    ping -i 0 ::1                    | ping -i 0
    ping -i nan ::1                  | ping -i nan
    ping -I softdog ::1              | no network interface has that name
    ping -Isoftdog ::1               | no network interface has that name
    ping fe80::1%softdog             | no network interface has that name
    systemctl restart sshd           | ServiceManager
    systemctl poweroff               | systemctl poweroff
    systemctl edit x                 | systemctl edit
    systemctl link /tmp/x.service    | systemctl link
    systemctl --root=/ status x      | systemctl --root
    systemctl -H host status x       | systemctl -H
    systemctl -M x status y          | systemctl -M
    systemctl status /tmp/x.service  | name the unit
    systemctl --no-pager start x     | systemctl start
    journalctl --vacuum-size=1       | journalctl --vacuum-size
    journalctl --vacuum-time=1s      | journalctl --vacuum-time
    journalctl --rotate              | journalctl --rotate
    journalctl --flush               | journalctl --flush
    journalctl --file=/tmp/x         | journalctl --file
    journalctl -D /tmp               | journalctl -D
    journalctl --root=/              | journalctl --root
    journalctl --cursor-file=/tmp/x  | journalctl --cursor-file
    journalctl --vacuum-s=1          | journalctl --vacuum-s
    journalctl /proc/1/exe           | /proc/1/exe
"""


@pytest.mark.parametrize("line", [line.strip() for line in ALLOWED.strip().splitlines()])
def test_allowed(policy: CommandPolicy, tmp_path: Path, line: str) -> None:
    error = refusal(policy, shlex.split(line), str(tmp_path))
    assert error is None, error


@pytest.mark.parametrize("row", [row.strip() for row in REFUSED.strip().splitlines()])
def test_refused(policy: CommandPolicy, tmp_path: Path, row: str) -> None:
    line, _, message = row.partition("|")
    directory = "/" if line.strip() == "grep -r x" else str(tmp_path)
    error = refusal(policy, shlex.split(line), directory)
    assert error is not None
    assert error.reason == "PERMISSION_DENIED"
    assert message.strip() in error.details()


def test_every_listed_program_with_dangers_refuses_unknown_options(policy: CommandPolicy) -> None:
    harmless = {"echo", "false", "free", "id", "netstat", "pwd", "sleep", "true", "uname", "uptime", "whoami"}
    for name in sorted(DEFAULT_COMMANDS - harmless):
        assert refusal(policy, [name, "--invented-option"], "/"), name


def test_a_refusal_names_the_command_and_the_way_out(tmp_path: Path) -> None:
    error = refusal(CommandPolicy([], PathPolicy([str(tmp_path)])), ["rm", "-rf", "/x"])
    assert error is not None
    assert error.details().startswith("Command not allowed: rm (")
    assert "security.allowed_commands" in error.details()
    assert error.data["command"] == "rm"


def test_recursive_grep_is_refused_when_a_file_below_is(tmp_path: Path) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / "a").write_text("x")
    policy = CommandPolicy([], PathPolicy([str(tmp_path)]))
    assert refusal(policy, ["grep", "-r", "x", "."], str(tmp_path)) is None
    (tmp_path / ".ssh" / "id_rsa").write_text("x")
    error = refusal(policy, ["grep", "-r", "x", "."], str(tmp_path))
    assert error is not None
    assert "id_rsa" in error.details()


def test_a_name_with_a_slash_must_be_the_listed_program(tmp_path: Path) -> None:
    cat = lookup("cat")
    assert cat
    (tmp_path / "cat").symlink_to(cat)
    (tmp_path / "ls").symlink_to(cat)
    policy = CommandPolicy([], PathPolicy([str(tmp_path)]))
    assert policy.check([str(tmp_path / "cat")], "/") == cat
    error = refusal(policy, [str(tmp_path / "ls")])
    assert error is not None
    assert "Command not allowed" in error.details()


def test_a_configured_list_replaces_the_default(tmp_path: Path) -> None:
    script = tmp_path / "check-disk"
    script.write_text("#!/bin/sh\necho ok $1\n")
    script.chmod(0o755)
    guest = Guest(str(tmp_path), allowed=["tr", str(script), "find"])
    assert guest.exec(f"{script} 'a b' | tr a-z A-Z").stdout == b"OK A B\n"
    for command, message in [("ls", "allowed: ls"), ("find . -delete", "find -delete"), ("./check-disk", "check-disk")]:
        with pytest.raises(RpcError) as caught:
            guest.exec(command)
        assert message in caught.value.details()


@pytest.mark.parametrize("name", ["X", "MY_APP", "TZ", "LC_ALL", "COLUMNS"])
def test_variables_that_may_be_set(name: str) -> None:
    assert command_environment({name: "x"}, restricted=True)[name] == "x"


REFUSED_VARIABLES = (
    "PATH IFS ENV BASH_ENV BASH_FUNC LD_PRELOAD LD_LIBRARY_PATH PYTHONPATH PERL5OPT PAGER SYSTEMD_PAGER GIT_PAGER LESS "
    "LESSOPEN EDITOR GCONV_PATH LOCPATH GLIBC_TUNABLES HOME XDG_CONFIG_HOME PS_PERSONALITY GREP_OPTIONS MAGIC TZDIR "
    "TERMINFO POSIXLY_CORRECT CMD_ENV UNIX95 TCPDIAG_FILE KSH_VERSION OPENSSL_CONF NIS_PATH"
)


@pytest.mark.parametrize("name", REFUSED_VARIABLES.split())
def test_variables_that_change_what_runs(name: str) -> None:
    with pytest.raises(RpcError) as caught:
        command_environment({name: "x"}, restricted=True)
    assert caught.value.reason == "PERMISSION_DENIED"
    assert f"Environment variable not allowed: {name}" in caught.value.details()
    assert command_environment({name: "x"}, restricted=False)[name] == "x"


def test_a_program_of_the_table_gets_no_variable_that_is_not_known_to_be_harmless(tmp_path: Path) -> None:
    """No list of harmful ones is whole. `env` shows all, since it reads none."""
    probe = "#!/bin/sh\nexec env\n"
    for name in ("which", "probe"):
        (tmp_path / name).write_text(probe)
        (tmp_path / name).chmod(0o755)
    guest = Guest(str(tmp_path), allowed=[str(tmp_path / "which"), str(tmp_path / "probe"), "env", "echo"])
    variables = {"UNHEARD_OF": "x", "TZ": "UTC", "COLUMNS": "99"}

    def seen(command: str, **fields: object) -> set[str]:
        output = guest.exec(command, env=variables, **fields).stdout.decode()
        return {line.partition("=")[0] for line in output.splitlines()}

    assert {"TZ", "COLUMNS", "PATH", "HOME"} <= seen(str(tmp_path / "which"))
    assert "UNHEARD_OF" not in seen(str(tmp_path / "which"))
    assert "UNHEARD_OF" not in seen("", argv=[str(tmp_path / "which")])
    assert "UNHEARD_OF" in seen(str(tmp_path / "probe"))
    assert "UNHEARD_OF" in seen("env")
    assert b"HOME=/nonexistent" in guest.exec(str(tmp_path / "which")).stdout  # where a caller can put no configuration
    assert guest.exec("echo $UNHEARD_OF", env=variables).stdout == b"x\n"


@pytest.mark.parametrize(("name", "value"), [("TZ", "/etc/shadow"), ("TZ", ":x"), ("LANG", "../../tmp/x")])
def test_variables_whose_value_is_a_path(name: str, value: str) -> None:
    with pytest.raises(RpcError) as caught:
        command_environment({name: value}, restricted=True)
    assert value in caught.value.details()


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"1X": ""}, "'1X' is not a variable's name"),
        ({"": ""}, "'' is not a variable's name"),
        ({"A=B": ""}, "'A=B' is not"),
        ({"A": "\0"}, "the value of A has a NUL"),
        ({"A": "x" * 200_000}, "A is longer than"),
    ],
)
def test_what_is_no_environment(env: dict[str, str], message: str) -> None:
    with pytest.raises(RpcError) as caught:
        command_environment(env, restricted=False)
    assert caught.value.reason == "INVALID_PARAMS"
    assert message in caught.value.details()


def test_nothing_of_the_daemons_environment_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAEMON_SECRET", "x")
    lines = Guest(str(tmp_path)).exec("env", env={"X": "a b"}).stdout.decode().splitlines()
    assert f"PATH={SAFE_PATH}" in lines
    assert "X=a b" in lines
    assert not any(line.startswith("DAEMON_SECRET") for line in lines)
    assert os.environ["DAEMON_SECRET"]
