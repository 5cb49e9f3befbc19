"""What is in the guest before the attacks: what a caller and an accomplice there may have made, and what is secret."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .rows import DIRECTORY, SECRET

if TYPE_CHECKING:
    from scripts.vm import VM

CANARY = "/usr/local/bin/attack-canary"
"""A program that nobody may run; it leaves a mark if somebody does."""

SECONDS = 240.0

# Links and the FIFO are an accomplice's: no call makes them. {secret} must not be in any process's arguments.
_SET_UP = """
set -eu
umask 022
mkdir -p {dir}/names /root /var/tmp/attack /home/attack/.ssh /home/attack/.gnupg/private-keys-v1.d
printf '#!/bin/sh\\n: >/root/attacked-by-canary\\n' >{canary}
chmod 755 {canary}
cd {dir}
for name in ls cat which id sh canary.sh; do cp {canary} $name; done
mkdir link-ls-to-sh
ln -s /bin/sh link-ls-to-sh/ls
ln -s /bin/sh link-sh
ln -s /etc/shadow link-shadow
ln -s /root link-root
ln -s /root/canary link-out
ln -s /root/missing link-nowhere
ln -s /proc link-proc
ln -s /root/canary replace-out
ln -s /etc/shadow replace-shadow
ln -s /root/missing replace-nowhere
mkfifo fifo
echo harmless >file
echo /root/secret >list
printf '/root/secret\\0' >list0
echo 'd41d8cd98f00b204e9800998ecf8427e  /root/secret' >sums
echo 'link set lo down' >batch
echo '0 string x y' >magic
printf 'openssl_conf = x\\n[x]\\nengines = y\\n' >x.cnf
printf '[Service]\\nExecStart={canary}\\n[Install]\\nWantedBy=multi-user.target\\n' >evil.service
printf 'not an object' >evil.so
gzip -c file >archive.gz
head -c 2000000 /dev/zero >big
cd names
for name in -exec -delete -rf --files0-from=list -f -C -z -s -F ';' '|' '$(attack-canary)' '`attack-canary`' \\
    'a b' '>' 'x;attack-canary' '*' '[' '\\' netns exec 010112002001; do : >"./$name"; done
: >"$(printf 'new\\nline')"
: >"$(printf 'bad\\377byte')"
for file in /root/secret /var/tmp/attack/secret /home/attack/.ssh/id_ed25519 \\
    /home/attack/.gnupg/private-keys-v1.d/x; do cp /root/attack-secret $file; done
cd ..
echo harmless >secret
echo untouched >/root/canary
cp -p /etc/shadow /root/shadow-before
sed 's/^/attack:/' /root/attack-secret >>/etc/shadow
ln /etc/shadow hard
export ENVIRONMENT_SECRET=$(cat /root/attack-secret)
setsid sleep 100000 >/dev/null 2>&1 </dev/null & echo $! >/root/attack-pids
setsid python3 -c 'import pty; pty.spawn(["sleep", "100000"])' \\
    >/dev/null 2>&1 </dev/null & echo $! >>/root/attack-pids
"""

_CLEAN_UP = """
set -u
kill $(cat /root/attack-pids)
rm -f {dir}/hard
cat /root/shadow-before >/etc/shadow
rm -rf {dir} {canary} /var/tmp/attack /home/attack /root/secret /root/canary /root/attack-* /root/shadow-before
"""

# What must be the same afterwards. The clock is checked apart.
_STATE = """
cat /proc/sys/kernel/random/boot_id
systemctl show --value -p MainPID vsrpc-guest
hostname
lsmod | cut -d ' ' -f 1 | grep -v _diag | sort  # the kernel loads those for ss
ip -br link; ip -4 -br addr; ip route; ip rule
systemctl list-units --all --no-legend --plain --type service,target,socket,timer | awk '{{ print $1, $2, $3, $4 }}'
systemctl show-environment
ls -lR /etc/systemd
ls -la /root /etc /etc/cron.d /usr/local/bin /boot /opt/vsrpc/current/ /dev/shm
cat /root/canary /etc/hostname /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe
md5sum /etc/shadow /etc/passwd /etc/vsrpc/*
find /etc /root /boot /srv /var/lib /var/spool /var/tmp /usr/local -newer /root/attack-mark
cat /proc/mounts | grep -v tracefs
"""


def set_up(vm: VM) -> None:
    """Fill the guest; `clean_up` undoes it."""
    vm.ga.write_file("/root/attack-secret", f"{SECRET}\n".encode(), 0o600)
    _run(vm, _SET_UP)
    vm.ga.write_file("/root/attack-mark", b"")


def clean_up(vm: VM) -> None:
    """Take away what `set_up` and the attacks have made."""
    _run(vm, _CLEAN_UP)


def state(vm: VM) -> str:
    """What no attack may change, as text."""
    return _run(vm, _STATE)


def costs(vm: VM) -> dict[str, int]:
    """What the daemon uses: descriptors, processes below it, memory in KiB."""
    text = _run(
        vm,
        "pid=$(systemctl show --value -p MainPID vsrpc-guest); ls /proc/$pid/fd | wc -l; "
        "pgrep -P $pid | wc -l; awk '/^VmRSS/ {{ print $2 }}' /proc/$pid/status; ls -d /proc/[0-9]* | wc -l",
    )
    return dict(zip(("descriptors", "children", "memory", "processes"), map(int, text.split())))


def _run(vm: VM, script: str) -> str:
    script = script.format(dir=DIRECTORY, canary=CANARY, secret="")
    return vm.ga.check(["/bin/sh", "-c", script], timeout=SECONDS).decode(errors="replace")
