"""What the other fields of a request, and the other calls, could do."""

from __future__ import annotations

from .rows import HARMLESS, attack, words

_VARIABLE = "Environment variable not allowed"

ENVIRONMENT = [
    *(
        attack(_VARIABLE, argv=["ls"], env={name: value})
        for name, value in (
            ("LD_PRELOAD", "/tmp/attack/evil.so"),
            ("LD_AUDIT", "/tmp/attack/evil.so"),
            ("LD_LIBRARY_PATH", "/tmp/attack"),
            ("LD_DEBUG_OUTPUT", "/root/attacked"),
            ("GLIBC_TUNABLES", "glibc.malloc.check=3"),
            ("GCONV_PATH", "/tmp/attack"),
            ("LOCPATH", "/tmp/attack"),
            ("NLSPATH", "/tmp/attack/%N"),
            ("HOSTALIASES", "/root/secret"),
            ("RES_OPTIONS", "debug"),
            ("MALLOC_TRACE", "/root/attacked"),
            ("TZDIR", "/root"),
            ("TMPDIR", "/root"),
            ("PATH", "/tmp/attack"),
            ("IFS", "/"),
            ("ENV", "/tmp/attack/canary.sh"),
            ("BASH_ENV", "/tmp/attack/canary.sh"),
            ("BASH_FUNC_ls", "() { attack-canary; }"),
            ("SHELLOPTS", "xtrace"),
            ("PS4", "$(attack-canary)"),
            ("PROMPT_COMMAND", "attack-canary"),
            ("POSIXLY_CORRECT", "1"),
            ("PAGER", "attack-canary"),
            ("SYSTEMD_PAGER", "attack-canary"),
            ("SYSTEMD_PAGERSECURE", "0"),
            ("SYSTEMD_EDITOR", "attack-canary"),
            ("SYSTEMD_UNIT_PATH", "/tmp/attack"),
            ("SYSTEMD_LOG_TARGET", "console"),
            ("JOURNAL_STREAM", "1:1"),
            ("MANPAGER", "attack-canary"),
            ("LESSOPEN", "|attack-canary %s"),
            ("LESS", "+!attack-canary"),
            ("EDITOR", "attack-canary"),
            ("DBUS_SYSTEM_BUS_ADDRESS", "unixexec:path=/usr/local/bin/attack-canary"),
            ("XDG_CONFIG_HOME", "/tmp/attack"),
            ("HOME", "/tmp/attack"),
            ("TERMINFO", "/tmp/attack"),
            ("TERMINFO_DIRS", "/tmp/attack"),
            ("TERMCAP", "/tmp/attack/x"),
            ("MAGIC", "/tmp/attack/magic"),
            ("GREP_OPTIONS", "-f/root/secret"),
            ("PS_PERSONALITY", "bsd"),
            ("PS_FORMAT", "args"),
            ("CMD_ENV", "bsd"),
            ("LIBPROC_HIDE_KERNEL", "1"),
            ("PROC_NET_TCP", "/root/secret"),
            ("TCPDIAG_FILE", "/root/secret"),
            ("IP_LIB_DIR", "/tmp/attack"),
            ("KSH_VERSION", "1"),
            ("OPENSSL_CONF", "/tmp/attack/x.cnf"),
            ("PYTHONPATH", "/tmp/attack"),
            ("PERL5OPT", "-Mattack"),
            ("GIT_PAGER", "attack-canary"),
            ("NOTIFY_SOCKET", "/run/systemd/notify"),
            ("LISTEN_FDS", "3"),
        )
    ),
    *(
        attack("not a plain name", argv=["date"], env={name: value})
        for name, value in (
            ("TZ", "/root/secret"),
            ("TZ", ":/root/secret"),
            ("TZ", "../../../root/secret"),
            ("TZ", "Europe/../../../../root/secret"),
            ("TZ", "a\n"),
            ("LANG", "/tmp/attack"),
            ("LC_ALL", "../../tmp/attack"),
            ("LANGUAGE", "../../tmp/attack"),
            ("TERM", "../../tmp/attack/x"),
            ("TERM", "/tmp/attack/x"),
        )
    ),
    attack("not a variable's name", argv=["ls"], env={"A=B": "x"}),
    attack("not a variable's name", argv=["ls"], env={"": "x"}),
    attack("not a variable's name", argv=["ls"], env={"LD_PRELOAD ": "x"}),
    attack("not a variable's name", argv=["ls"], env={"A\nLD_PRELOAD": "x"}),
    attack("not a variable's name", argv=["ls"], env={"BASH_FUNC_ls%%": "() { attack-canary; }"}),
    attack("NUL", argv=["ls"], env={"A": "x\0LD_PRELOAD=/tmp/attack/evil.so"}),
    attack("limits.environment_size", argv=["ls"], env={f"A{number}": "x" for number in range(30_000)}),
    attack("limits.environment_size", argv=["ls"], env={"A": "x" * 200_000}),
    attack(HARMLESS, argv=["which", "ls"], env={"ksh_version": "1", "UNHEARD_OF": "x"}),
    attack(HARMLESS, argv=["top", "-bn1"], env={"COLUMNS": "9" * 100, "LINES": "-1"}),
    attack(HARMLESS, argv=["ps", "aux"], env={"COLUMNS": "999999999"}),
    attack(HARMLESS, argv=["ls", "-l", "--color=always"], env={"LS_COLORS": "*=\x1b" * 1000, "TIME_STYLE": "+%1000d"}),
    attack(HARMLESS, argv=["date"], env={"TZ": "<" + "A" * 10_000 + ">0", "LC_ALL": "xx_XX.ISO-2022-JP//TRANSLIT"}),
]

DIRECTORIES = [
    attack("/root", argv=["ls"], working_dir="/root"),
    attack("/root", argv=["ls"], working_dir="/tmp/attack/link-root"),
    attack("/root", argv=["ls"], working_dir="/tmp/attack/link-root/"),
    attack("/root", argv=["ls"], working_dir="/tmp/attack/../../root"),
    attack("/proc", argv=["ls"], working_dir="/proc/self/cwd"),
    attack("/proc", argv=["ls"], working_dir="/proc/self/fd/3"),
    attack("/proc", argv=["ls"], working_dir="/proc"),
    attack("/dev", argv=["ls"], working_dir="/dev/fd"),
    attack("not an absolute path", argv=["ls"], working_dir="tmp"),
    attack("not an absolute path", argv=["ls"], working_dir="/tmp\0/root"),
    attack("no such directory", argv=["ls"], working_dir="/tmp/attack/missing"),
    attack("not a directory", argv=["ls"], working_dir="/tmp/attack/file"),
    attack("through /proc", command="cat /proc/self/cwd/tmp/attack/secret", working_dir="/var"),
    attack("through /proc", command="cat /proc/thread-self/cwd/tmp/attack/secret", working_dir="/var"),
    attack("through /proc", command="cat /dev/fd/../cwd/tmp/attack/secret", working_dir="/var"),
    attack("through /proc", command="grep . /proc/self/cwd/tmp/attack/secret", working_dir="/var"),
    attack("/var/tmp/attack/secret", command="cat tmp/attack/secret", working_dir="/var"),
    attack("/etc/shadow", command="cat shadow", working_dir="/etc"),
    attack("/etc", command="grep -r root", working_dir="/etc"),
    attack("/etc/attacked", command="echo x > attacked", working_dir="/etc"),
    attack("Command not allowed: ./sh", command="./sh", working_dir="/bin"),
    attack("Command not allowed: sh", command="sh", working_dir="/bin"),
]

GLOBS = [
    attack(HARMLESS, command="ls *", working_dir="/tmp/attack/names"),
    attack(HARMLESS, command="cat *", working_dir="/tmp/attack/names"),
    attack(HARMLESS, command="find *", working_dir="/tmp/attack/names"),
    attack(HARMLESS, command="grep x *", working_dir="/tmp/attack/names"),
    attack(HARMLESS, command="md5sum -*", working_dir="/tmp/attack/names"),
    attack(HARMLESS, command="file -*z*", working_dir="/tmp/attack/names"),
    attack(HARMLESS, command="hostname *", working_dir="/tmp/attack/names"),
    attack(HARMLESS, command="ip [a-z]*", working_dir="/tmp/attack/names"),
    attack(HARMLESS, command="date *", working_dir="/tmp/attack/names"),
    attack(HARMLESS, command="echo */* .*/* ../*", working_dir="/tmp/attack/names"),
    attack("/root", command="echo /root/*"),
    attack("/root", command="echo /tmp/attack/../../root/*"),
    attack("/proc", command="echo /proc/[1]/environ"),
    attack("/dev", command="echo /dev/v*"),
    attack(HARMLESS, command="echo /*/secret /*/.ssh/* /home/*/.ssh/*"),
    attack(HARMLESS, command="cat /*/secret"),
    attack("SSH keys", command="cat /home/*/.ssh/*"),
    attack(HARMLESS, command="cat link-*"),
    attack(HARMLESS, command="grep -r x link-*"),
    attack(HARMLESS, command="echo */"),
]

READS = words(
    """
/etc/shadow
/etc/shadow-
/etc/gshadow
/etc/sudoers
/etc/passwd
/root/secret
/tmp/attack/../../root/secret
/tmp/../root/secret
/tmp/attack/link-root/secret
/tmp/attack/link-shadow
/tmp/attack/hard
/tmp/attack/link-proc/1/environ
/tmp/attack/fifo
/tmp/attack
/proc/self/environ
/proc/self/root/root/secret
/proc/self/cwd/root/secret
/proc/1/mem
/dev/mem
/dev/vda
/dev/stdin
/sys/kernel/notes
/etc/ssh/ssh_host_rsa_key
/home/attack/.ssh/id_ed25519
/home/attack/.gnupg/private-keys-v1.d/x
/etc/vsrpc/guest.yaml
/opt/vsrpc/current/guest/daemon.py
//root//secret
/tmp/attack/missing/../../../root/secret
/tmp/\u2025/root/secret
tmp/attack/file
"""
)
"""Paths that neither Download nor DownloadChunk may read."""

WRITES = words(
    """
/root/attacked
/etc/cron.d/attacked
/etc/ld.so.preload
/etc/systemd/system/attacked.service
/etc/sudoers.d/attacked
/usr/local/bin/ls
/tmp/../etc/attacked
/tmp/attack/../../root/attacked
/tmp/attack/link-root/attacked
/tmp/attack/link-proc/sys/kernel/modprobe
/proc/sys/kernel/core_pattern
/proc/self/root/root/attacked
/proc/sysrq-trigger
/dev/shm/attacked
/dev/vda
/sys/kernel/uevent_helper
/etc/vsrpc/guest.yaml
/etc/vsrpc/attacked
/opt/vsrpc/current/guest/daemon.py
/opt/vsrpc/current/vsrpc/attacked.py
/opt/vsrpc/current/yaml.py
/opt/vsrpc/current
/opt/vsrpc/attacked
/opt/vsrpc/releases/attacked
/home/attack/.ssh/id_ed25519
/home/attack/.ssh/authorized_keys
/home/attack/.ssh/rc
/home/attack/.ssh/environment
/home/attack/.bashrc
/home/attack/.profile
/home/attack/.config/systemd/user/x.service
/tmp/attack/fifo
/tmp/attack/names
/tmp/attack/.
/tmp/attack/names/..
/tmp/attack/
/run/attacked
/var/lib/attacked
/var/tmp/attacked
/boot/attacked
tmp/attacked

"""
)
"""Paths that neither Upload nor InitUpload may write."""

LOOKS = [
    "/root/secret",
    "/root/missing",
    "/proc/1/exe",
    "/dev/vda",
    "/sys/power",
    "/etc/shadow",
    "/etc/vsrpc/x",
    "/tmp/attack/link-root/x",
]
"""Paths of which Stat may tell nothing."""

UNITS = [
    ("../../tmp/attack/evil", "start"),
    ("/tmp/attack/evil.service", "start"),
    ("/tmp/attack/evil.service", "enable"),
    ("--root=/tmp/attack", "enable"),
    ("-H", "start"),
    ("*", "stop"),
    ("db?s", "stop"),
    ("dbus ssh", "stop"),
    ("dbus\nssh", "stop"),
    ("dbus;attack-canary", "stop"),
    ("$(attack-canary)", "start"),
    ("", "start"),
    ("dbus", "mask"),
    ("dbus", "edit"),
    ("dbus", "START"),
    ("dbus", "kill"),
    ("dbus", "--root=/tmp/attack"),
    ("dbus", ""),
    ("a" * 300, "start"),
    (".", "start"),
    ("..", "start"),
    ("vsrpc-guest", "stop"),
    ("attack-missing", "start"),
    ("dbus\0", "stop"),
    ("d\u0443bus", "stop"),
    ("poweroff.target", "start"),
    ("reboot.target", "start"),
    ("rescue.target", "start"),
    ("multi-user.target", "stop"),
    ("system.slice", "stop"),
    ("init.scope", "stop"),
    ("debug-shell", "start"),
    ("debug-shell", "enable"),
    ("emergency.service", "start"),
    ("-.mount", "stop"),
]
"""Units and actions that Control must refuse."""

ROWS = [*ENVIRONMENT, *DIRECTORIES, *GLOBS]
