"""What a shell would make of a command line, quoting, encodings, sizes, redirections."""

from __future__ import annotations

from .rows import HARMLESS, attack, table

_NOT = "Command not allowed"

PROGRAMS = table(
    """
    attack-canary => Command not allowed: attack-canary
    /usr/local/bin/attack-canary => Command not allowed
    sh -c attack-canary => Command not allowed: sh
    /bin/sh -c attack-canary => Command not allowed: /bin/sh
    bash -c attack-canary => Command not allowed: bash
    busybox sh => Command not allowed: busybox
    python3 -c 'import os' => Command not allowed: python3
    perl -e 1 => Command not allowed: perl
    xargs attack-canary => Command not allowed: xargs
    nice attack-canary => Command not allowed: nice
    timeout 1 attack-canary => Command not allowed: timeout
    nohup attack-canary => Command not allowed: nohup
    setsid attack-canary => Command not allowed: setsid
    systemd-run attack-canary => Command not allowed: systemd-run
    ./ls => Command not allowed: ./ls
    ls/ => Command not allowed: ls/
    /tmp/attack/ls => Command not allowed: /tmp/attack/ls
    /tmp/attack/link-sh => Command not allowed
    /tmp/attack/link-ls-to-sh/ls => Command not allowed
    ../../bin/sh => Command not allowed
    /bin/../bin/sh => Command not allowed
    /proc/self/root/bin/sh => Command not allowed
    /proc/self/exe => Command not allowed
    /lib64/ld-linux-x86-64.so.2 /bin/sh => Command not allowed
    LS => Command not allowed: LS
    l\\s; at\\tack-canary => Command not allowed: attack-canary
    'ls'; 'attack-canary' => Command not allowed: attack-canary
    "l"s; "attack"-canary => Command not allowed: attack-canary
    $P => Command not allowed: attack-canary
    ${P} => Command not allowed: attack-canary
    "$P" x => Command not allowed: attack-canary
    ls; $P => Command not allowed: attack-canary
    $EMPTY attack-canary => Command not allowed: attack-canary
    $EMPTY$P => Command not allowed: attack-canary
    * => a glob cannot name the program
    ./l? => a glob cannot name the program
    /usr/local/bin/attack-* => a glob cannot name the program
    ls && attack-canary => Command not allowed: attack-canary
    true || attack-canary => Command not allowed: attack-canary
    false && attack-canary => Command not allowed: attack-canary
    ls | attack-canary => Command not allowed: attack-canary
    ls | cat | sh => Command not allowed: sh
    ls ; ; attack-canary => a command is missing
    sudo ls => Command not allowed: sudo
    cd / => set working_dir
    """,
    env={"P": "attack-canary", "EMPTY": ""},
)

SHELL = table(
    """
    ls $(attack-canary) => $(
    ls "$(attack-canary)" => $(
    ls `attack-canary` => `
    ls "`attack-canary`" => `
    ls \\$(attack-canary) => '('
    ls ${x:-$(attack-canary)} => ${
    ls ${!P} => ${
    ls ${P@P} => ${
    ls ${P/a/b} => ${
    ls $((1+1)) => $((
    ls $[1+1] => $[
    ls $'\\x41' => $'
    ls $"x" => $
    ls $* $@ $# => $*
    echo $$ => $$
    echo $! => $!
    echo $0 $1 => $0
    ls <(attack-canary) => <(
    ls >(attack-canary) => >(
    ls {a,b} => '{'
    { ls; } => {
    ( ls ) => '('
    ls & attack-canary => &
    ls & => &
    ls |& attack-canary => |&
    ! attack-canary => !
    if true; then attack-canary; fi => if
    for x in 1; do attack-canary; done => for
    while true; do attack-canary; done => while
    case x in x) attack-canary;; esac => case
    function f { attack-canary; } => function
    f() { attack-canary; } => (
    alias ls=attack-canary => Command not allowed: alias
    coproc attack-canary => coproc
    time attack-canary => time
    exec attack-canary => Command not allowed: exec
    eval attack-canary => Command not allowed: eval
    . ./canary.sh => Command not allowed: .
    source ./canary.sh => Command not allowed: source
    command attack-canary => Command not allowed: command
    builtin ls => Command not allowed: builtin
    trap attack-canary EXIT => Command not allowed: trap
    set -x => Command not allowed: set
    export PATH=/tmp/attack => set env of the request
    PATH=/tmp/attack ls => assignment
    P=attack-canary; $P => assignment
    A+=b ls => assignment
    ls # attack-canary => comment
    #!/bin/sh => comment
    !! => Command not allowed: !!
    !attack => Command not allowed: !attack
    %1 => Command not allowed: %1
    fg => Command not allowed: fg
    [[ -e / ]] => [[
    [ -e / ] => glob cannot name
    test -e / => Command not allowed: test
    echo [[:alpha:]] => [[
    echo ~root => ~
    ls ~attack/.ssh => ~
    cat <<EOF => <<
    cat <<<x => <<
    cat <>file => <>
    ls 'unclosed => never closed
    ls "unclosed => never closed
    ls \\ => ~
    ls | => missing after
    && ls => missing
    """,
    env={"P": "attack-canary"},
)

REDIRECTIONS = table(
    """
    echo x > /root/attacked => /root/attacked
    echo x >> /etc/shadow => /etc/shadow
    echo x >/etc/cron.d/attacked => /etc/cron.d
    echo x > ../../root/attacked => /root/attacked
    echo x > link-out => /root/canary
    echo x >> link-shadow => /etc/shadow
    echo x > link-root/attacked => /root
    echo x > link-nowhere => link
    echo x > hard => hard link
    echo x 2> /root/attacked => /root/attacked
    echo x 1>/root/attacked => /root/attacked
    echo x &> /root/attacked => /root/attacked
    echo x &>/dev/kmsg => /dev
    echo x >| file => >|
    echo x >& file => only 1 and 2
    echo x 3> file => 3>
    echo x 1>&3 => only 1 and 2
    echo x >&- => only 1 and 2
    echo x > /dev/vda => /dev
    echo b > /proc/sysrq-trigger => /proc
    echo x > /proc/self/attr/current => /proc
    echo x > /proc/self/fd/1 => /proc
    echo x > /proc/self/root/root/attacked => /root/attacked
    echo x > /dev/stdout => /dev
    echo x > /dev/tcp/127.0.0.1/22 => /dev
    echo x > /dev/shm/x => /dev
    echo x > /sys/kernel/uevent_helper => /sys
    echo x > /sys/power/state => /sys
    echo x > /etc/vsrpc/guest.yaml => daemon
    echo x > /opt/vsrpc/current/guest/daemon.py => daemon
    echo x > /home/attack/.ssh/id_ed25519 => SSH keys
    echo x > "" => ~
    echo x > $EMPTY => ~
    echo x > fifo => ~
    echo x > . => ~
    echo x > /tmp/attack/.. => ~
    echo x > out* => a glob after a redirection
    cat < /root/secret => /root/secret
    cat < link-shadow => /etc/shadow
    cat < fifo => ~
    cat 0</etc/shadow => /etc/shadow
    cat < /dev/vda => /dev
    cat < /dev/./null => /dev
    cat <& 3 => <
    cat 5< file => 5<
    false && echo x > /root/attacked => /root/attacked
    true || cat < /root/secret => /root/secret
    echo x > file > /root/attacked => /root/attacked
    echo x > missing/../../../root/attacked => ~
    """,
    env={"EMPTY": ""},
)

ENCODINGS = [
    attack("NUL", command="ls\0attack-canary"),
    attack("NUL", argv=["ls", "x\0y"]),
    attack("Command not allowed: attack-canary", command="ls\nattack-canary"),
    attack("Command not allowed: attack-canary", command="ls |\n\n attack-canary"),
    attack("U+000D", command="ls\rattack-canary"),
    attack("U+000D", command="ls\r\nattack-canary"),
    attack("U+000B", command="ls\vattack-canary"),
    attack("U+000C", command="ls\fattack-canary"),
    attack("U+001B", command="echo '\x1b]0;x\x07'"),
    attack("U+FEFF", command="\ufeffls"),
    attack("U+00A0", command="ls\u00a0-la"),
    attack("U+2028", command="ls\u2028attack-canary"),
    attack("U+200B", command="l\u200bs"),
    attack("U+202E", command="ls \u202e/root"),
    attack("U+0085", command="ls\u0085attack-canary"),
    attack(_NOT, command="\uff4c\uff53"),
    attack(_NOT, command="l\u0455"),
    attack(_NOT, command="\u0441at /root/secret"),
    attack(HARMLESS, command="ls \uff1b attack-canary \uff5c \uff06"),
    attack(HARMLESS, command="echo \uff04(attack-canary)".replace("(", "\uff08").replace(")", "\uff09")),
    attack("/root/secret", command="cat\t/root/secret"),
    attack("/root/secret", command="cat \\\n/root/secret"),
    attack("Command not allowed: attack-canary", command="att\\\nack-canary"),
    attack(_NOT, argv=["ls\nattack-canary"]),
    attack(_NOT, argv=[" ls"]),
    attack(_NOT, argv=["ls "]),
    attack(_NOT, argv=["ls;attack-canary"]),
    attack(_NOT, argv=["-ls"]),
    attack(_NOT, argv=["--", "ls"]),
    attack(_NOT, argv=["."]),
    attack(_NOT, argv=["/"]),
    attack(_NOT, argv=["..", "ls"]),
    attack(_NOT, argv=["A=b", "attack-canary"]),
    attack(_NOT, argv=["/usr/bin/", "ls"]),
    attack("is empty", argv=["", "ls"]),
    attack("Both command and argv", command="ls", argv=["attack-canary"]),
    attack("missing", command=" \n\t"),
    attack(HARMLESS, argv=["echo", "$(attack-canary)", "`id`", ";", "|", ">", "/root/attacked", "&&", "\r\n"]),
    attack("find -exec", argv=["find", ".", "-exec", "attack-canary", ";"]),
    attack("find -delete", argv=["find", ".", "-delete\n"]),
    attack("not one that is known", argv=["cat", "-\n/root/secret"]),
    attack("/root/secret", argv=["cat", "--", "/root/secret"]),
    attack("env -S", argv=["env", "-S", "attack-canary"]),
    attack("not one that is known", argv=["env", "-\nS", "attack-canary"]),
    attack("sets the clock", argv=["date", "+%s\n", "-"]),
    attack(HARMLESS, argv=["date", "+%s\n010112002001"]),
    attack("sets it", argv=["hostname", "\n"]),
]

SIZES = [
    attack("limits.argument_size", command="echo " + "a" * 200_000),
    attack("64 commands", command="true;" * 5000),
    attack("64 commands", command="echo |" * 3000 + "cat"),
    attack("words", command="echo " + "a " * 10_000),
    attack("'('", command="(" * 50_000),
    attack("never closed", command='"' * 50_001),
    attack(HARMLESS, command="echo " + "\\" * 50_000),
    attack("${", command="echo " + "${" * 50_000),
    attack("131072 characters", command="echo " + "$A" * 4000, env={"A": "x" * 100_000}),
    attack("2097152 characters", command="echo " + "$A " * 4000, env={"A": "x" * 100_000}),
    attack("2097152 characters", command=";".join(["echo " + "$A " * 20] * 60), env={"A": "x" * 100_000}),
    attack("1024 characters", command="echo " + "[!a" * 400 + "*"),
    attack("1024 characters", command="echo " + "*a" * 600),
    attack(HARMLESS, command="echo " + "/usr/*/*/*/zz* " * 50),
    attack(HARMLESS, command="ls " + "/*/*/*/* " * 4),
    attack(HARMLESS, command="echo " + "[a-z]" * 200 + "*?" * 10),
    attack("limits.argument_size", argv=["echo", "a" * 200_000]),
    attack(HARMLESS, argv=["echo", *["a"] * 100_000]),
    attack(HARMLESS, argv=["stat", *["file"] * 50_000]),
    attack(HARMLESS, command=" | ".join(["cat"] * 64)),
    attack(HARMLESS, command="find / | cat | cat | wc -l"),
    attack("A part of the path is longer", command="cat " + "a" * 300),
    attack("longer than", command="cat /tmp/" + "a/" * 5000),
    attack(HARMLESS, command="ls " + "../" * 1000),
    attack(HARMLESS, command="tail -c 99999999999 big | tail -n 99999999999 | grep -z x"),
    attack(HARMLESS, command="echo x" + " 2>&1" * 3000),
    attack(HARMLESS, command="echo x" + " > out" * 2000),
]

ROWS = [*PROGRAMS, *SHELL, *REDIRECTIONS, *ENCODINGS, *SIZES]
