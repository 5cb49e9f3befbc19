"""Command lines that people need and that must go on working: each with what its standard output must match.

They run in DIRECTORY, which has what guest_setup.py puts there. The exit code must be 0 unless the row says otherwise.
"""

from __future__ import annotations

from typing import NamedTuple


class Legitimate(NamedTuple):
    """A command line, a pattern for its output, its exit code."""

    command: str
    output: str
    code: int = 0


ROWS = [
    Legitimate(*row)  # type: ignore[arg-type]
    for row in (
        # the README's
        ("df -h | head -3", r"Filesystem.*\n.*/"),
        ("uptime", r"load average"),
        ("sleep 1 && echo done", r"^done\n$"),
        # looking around
        ("ls", r"(?m)^file$"),
        ("ls -la /", r"(?m)^d.* etc$"),
        ("ls -lt --time-style=+%s file", r"^-rw-r--r-- 1 root root 9 \d+ file$"),
        ("ls -1 *.gz *.service", r"^archive.gz\nevil.service\n$"),
        ("ls -d /usr/*/ | head -n 2", r"^/usr/\w+/\n/usr/\w+/\n$"),
        ("stat -c '%a %U:%G %s %n' file", r"^644 root:root 9 file\n$"),
        ("stat -f / | grep -c Blocks", r"^1\n$"),
        ("stat --printf='%F\\n' /etc", r"^directory$"),
        ("file -b archive.gz", r"^gzip compressed data"),
        ("file --mime-type file archive.gz | wc -l", r"^2\n$"),
        ("find /var/log -name '*.log' -size +1k -mtime -9000 | wc -l", r"^\d+\n$"),
        ("find . -maxdepth 1 -type f -name 'fi*' -printf '%f %s\\n'", r"^file 9\n$"),
        ("find /etc -maxdepth 1 -name 'host*' -o -maxdepth 1 -name fstab", r"/etc/hosts\n"),
        ("find . -maxdepth 1 ! -name 'x*' -newermt '2001-01-01 00:00' -type p", r"^./fifo\n$"),
        ("find . -newermt 'TZ=\"Europe/Paris\" 2001-01-01' -maxdepth 1 -name file 2>/dev/null", r"^./file\n$"),
        ("du -sh /tmp/attack", r"\t/tmp/attack\n$"),
        ("du -d 1 -k . | wc -l", r"^[3-9]\n$"),
        ("df -h / | tail -1", r"% /\n$"),
        ("df --output=target,fstype /", r"(?m)^/ +ext4$"),
        ("which ls cat", r"^/usr/bin/ls\n/usr/bin/cat\n$"),
        ("md5sum file", r"^[0-9a-f]{32}  file\n$"),
        ("sha256sum file | head -c 64 | wc -c", r"^64\n$"),
        # reading
        ("cat file", r"^harmless\n$"),
        ("cat -n file file", r"^ +1\tharmless\n +2\tharmless\n$"),
        ("cat < file", r"^harmless\n$"),
        ("head -n 1 file; tail -n 1 file", r"^harmless\nharmless\n$"),
        ("head -c 4 file", r"^harm$"),
        ("tail -c +5 file | cat", r"^less\n$"),
        ("tail -n 2 /var/log/dpkg.log | wc -l", r"^2\n$"),
        ("grep -c harm file", r"^1\n$"),
        ("grep -rn harmless names ../attack/file", r"^../attack/file:1:harmless\n$"),
        ("grep -E 'harm(less|ful)' file | wc -w", r"^1\n$"),
        ("grep -q nothing file || echo absent", r"^absent\n$"),
        ("wc -l < file", r"^1\n$"),
        ("wc -c file big | tail -1", r"total"),
        ("cat missing 2>&1 | grep -o 'No such file'", r"^No such file\n$"),
        # processes and the system
        ("ps aux --sort=-rss | head -5", r"^USER +PID"),
        ("ps -ef | grep -c systemd", r"^\d+\n$"),
        ("ps -eo pid,comm,rss --sort=-rss --no-headers | head -n 3 | wc -l", r"^3\n$"),
        ("ps -p 1 -o comm=", r"^systemd\n$"),
        ("ps -ef --forest | wc -l", r"^\d+\n$"),
        ("ps -fC systemd | wc -l", r"^\d+\n$"),
        ("ps axo pid,stat,args | head -2", r"PID STAT COMMAND"),
        ("top -bn1 | head -5", r"^top - .*\nTasks:"),
        ("top -b -n 1 -o %MEM -w 100 | wc -l", r"^\d+\n$"),
        ("free -m | grep Mem", r"^Mem: +\d+"),
        ("uptime -p; uptime -s", r"^up .*\n\d{4}-"),
        ("uname -r && uname -m", r"-cloud-amd64\nx86_64\n$"),
        ("hostname; hostname -s", r"^vsrpc-guest\nvsrpc-guest\n$"),
        ("whoami; id -u", r"^root\n0\n$"),
        ("id root", r"^uid=0\(root\)"),
        ("date +%s", r"^\d{10}\n$"),
        ("date -u -d @0 '+%F %T'", r"^1970-01-01 00:00:00\n$"),
        ("date -d '2020-02-29 +1 day' +%F", r"^2020-03-01\n$"),
        ("date -u -d 'TZ=\"UTC\" 2020-01-01 12:00' +%H", r"^12\n$"),
        ("date -r file +%Y", r"^\d{4}\n$"),
        ("env | grep -c ^PATH=", r"^1\n$"),
        ("pwd", r"^/tmp/attack\n$"),
        # the network
        ("ip -br addr", r"(?m)^lo +UNKNOWN +127\.0\.0\.1/8"),
        ("ip a show lo", r"inet 127\.0\.0\.1/8"),
        ("ip -s link show dev lo | grep -c RX", r"^1\n$"),
        ("ip route; ip -4 rule list | head -1", r"lookup local"),
        ("ip route show table local dev lo", r"127\.0\.0\.1"),
        ("ip -j addr | head -c 2", r"^\[\{$"),
        ("ip neigh; ip route get 127.0.0.1 | head -1", r"^local 127\.0\.0\.1 dev lo"),
        ("ss -tlnp", r"^State"),
        ("ss -s | head -1", r"^Total: \d+"),
        ("ss -tan state listening 'sport = :22' | wc -l", r"^\d+\n$"),
        ("netstat -rn | head -1", r"^Kernel IP routing table"),
        ("netstat -tlnp 2>/dev/null | grep -c Proto", r"^1\n$"),
        ("netstat -i | grep ^lo", r"^lo +65536"),
        ("ping -c 1 -W 2 127.0.0.1", r"1 received"),
        ("ping -c 1 -I lo ::1 | tail -2 | head -1", r" 0% packet loss"),
        # services and the journal
        ("systemctl is-active dbus", r"^active\n$"),
        ("systemctl status dbus --no-pager | head -3", r"dbus\.service"),
        ("systemctl status no-such-unit 2>&1", r"could not be found", 4),
        ("systemctl list-units --type=service --state=running --no-legend | grep -c dbus", r"^1\n$"),
        ("systemctl show -p MainPID --value vsrpc-guest", r"^\d+\n$"),
        ("systemctl is-enabled ssh; systemctl --failed --no-legend | wc -l", r"^(en|dis)abled\n\d+\n$"),
        ("systemctl cat dbus | head -1", r"^# /lib/systemd/system/dbus.service"),
        ("journalctl -u vsrpc-guest -n 1 --no-pager -o cat", r"."),
        ("journalctl -b -p err -q --since '1 hour ago' | wc -l", r"^\d+\n$"),
        ("journalctl --disk-usage", r"take up"),
        ("journalctl -k -n 3 -o short-iso | wc -l", r"^[1-4]\n$"),
        # the language of command lines
        ("true && echo yes || echo no", r"^yes\n$"),
        ("false && echo yes || echo no", r"^no\n$"),
        ("false; echo $NAME ${NAME}y '$NAME' \"$NAME\"", r"^value valuey \$NAME value\n$"),
        ("echo 'a  b' \"c;d\" e\\ f '|' \\> '$(x)'", r"^a  b c;d e f \| > \$\(x\)\n$"),
        ("echo a | cat | cat | wc -c", r"^2\n$"),
        ("echo one > made; echo two >> made; cat made; echo > made", r"^one\ntwo\n$"),
        ("ls missing >/dev/null 2>&1 || echo no such", r"^no such\n$"),
        ("ls missing file 2>made-too | wc -l; wc -l < made-too", r"^1\n1\n$"),
        ("echo f*le [a-b]*.gz '*' nothing-*", r"^file archive.gz \* nothing-\*\n$"),
        ("echo ~", r"^/root\n$"),
        ("echo first\necho second\n", r"^first\nsecond\n$"),
        ("false", r"^$", 1),
        ("grep nothing file", r"^$", 1),
        ("/bin/ls /usr/bin/env", r"^/usr/bin/env\n$"),
    )
]
VARIABLES = {"NAME": "value"}
