"""What the programs of the default list that show the system could do: run others, change clock, units or network."""

from __future__ import annotations

from .rows import table

SYSTEM = table(
    """
    env attack-canary => env attack-canary
    env -i attack-canary => env attack-canary
    env A=b attack-canary => env A=b
    env -S attack-canary => env -S
    env -vS attack-canary => env -v
    env -S'attack-canary x' => env -S
    env --split-string=attack-canary => env --split-string
    env --split attack-canary => write it in full
    env -u PATH attack-canary => env attack-canary
    env -C / attack-canary => env -C
    env --chdir=/ attack-canary => env --chdir
    env -- attack-canary => env attack-canary
    env - attack-canary => env -
    env /usr/bin/env sh => env /usr/bin/env
    env env => env env
    date -s 2001-01-01 => date -s
    date -us 2001-01-01 => date -s
    date --set=2001-01-01 => date --set
    date --se 2001-01-01 => write it in full
    date 010112002001 => sets the clock
    date -- 010112002001 => sets the clock
    date +%s 010112002001 => sets the clock
    date -f /root/secret => date -f
    date -f file => date -f
    date --file=file => date --file
    date -r /root/secret => /root/secret
    date --reference=/proc/1/exe => through /proc
    date -d 'TZ="/dev/watchdog" now' => the time zone
    date -d 'TZ="/tmp/attack/fifo" now' => the time zone
    date --date='  TZ="../../root/secret" now' => the time zone
    date -ud 'TZ=":/root/secret" now' => the time zone
    date +%999999999d => ~
    hostname attacked => hostname attacked
    hostname -- attacked => hostname attacked
    hostname -F file => hostname -F
    hostname --file=file => hostname --file
    hostname --fil=file => write it in full
    hostname -b attacked => hostname -b
    hostname -y attacked => hostname attacked
    hostname '' => sets it
    uptime /root/secret => uptime /root/secret
    id attack-nobody => ~
    uname --invented => ~
    free -s 1 => ~
    free --seconds=0.1 -c 5 => ~
    sleep infinity => ~
    true --version; false --help => ~
    whoami --help => ~
    pwd -P; pwd --help => ~
    top => without -b
    top -n 1 => without -b
    top -d -b => without -b
    top -b -n 1 -S -s -c -d 9999999999 => ~
    top -bn1 -o ENVIRON => ~
    top -b --config x => top --config
    ps e => environment
    ps axe => environment
    ps -e x => environment
    ps -axe => environment
    ps auxewww => environment
    ps -eTH => environment
    ps -eT --forest => environment
    ps -e -O p => environment
    ps -ef -o args => environment
    ps -eMo args => environment
    ps -ec -o args -T => environment
    ps -em --deselect --forest => environment
    ps -TH -C axe => environment
    ps -LT -u root => environment
    ps -o environ -e => ~
    ps -eo args,zz => ~
    ps --sort e -x => ~
    ps x -C e => environment
    ps --personality=bsd -e => ps --personality
    ps -eo 'pid,args' e => environment
    ps -e --format=args --form => write it in full
    systemctl start attack-canary => ServiceManager
    systemctl -q stop dbus => ServiceManager
    systemctl --no-pager restart dbus => ServiceManager
    systemctl poweroff => ServiceManager
    systemctl reboot -f => systemctl -f
    systemctl --force reboot => systemctl --force
    systemctl isolate rescue => ServiceManager
    systemctl kill dbus => ServiceManager
    systemctl edit dbus => ServiceManager
    systemctl enable /tmp/attack/evil.service => ServiceManager
    systemctl link /tmp/attack/evil.service => ServiceManager
    systemctl set-environment LD_PRELOAD=/tmp/attack/evil.so => ServiceManager
    systemctl set-property dbus CPUQuota=1% => ServiceManager
    systemctl daemon-reload => ServiceManager
    systemctl import-environment => ServiceManager
    systemctl mount-image dbus /tmp/attack/file => ServiceManager
    systemctl bind dbus /tmp/attack/file => ServiceManager
    systemctl set-default rescue.target => ServiceManager
    systemctl mask dbus => ServiceManager
    systemctl log-level debug => ServiceManager
    systemctl status /tmp/attack/evil.service => name the unit
    systemctl status ../../tmp/attack/evil => name the unit
    systemctl cat /root/secret => name the unit
    systemctl --root=/tmp/attack cat evil => systemctl --root
    systemctl --roo=/tmp/attack cat evil => write it in full
    systemctl --image=x status y => systemctl --image
    systemctl -H attacker status x => systemctl -H
    systemctl --host=attacker status x => systemctl --host
    systemctl -M .host status x => systemctl -M
    systemctl --user status x => systemctl --user
    systemctl -aH attacker => systemctl -H
    systemctl is-enabled hwclock.sh => systemd-sysv-install
    systemctl is-enabled hwclock.sh.service => systemd-sysv-install
    systemctl -p start dbus => ServiceManager
    systemctl -t service start dbus => ServiceManager
    journalctl --vacuum-size=1 => journalctl --vacuum-size
    journalctl --vacuum-time=1s => journalctl --vacuum-time
    journalctl --vacuum-files=1 => journalctl --vacuum-files
    journalctl --vacuum-f=1 => write it in full
    journalctl --rotate => journalctl --rotate
    journalctl --flush => journalctl --flush
    journalctl --sync => journalctl --sync
    journalctl --relinquish-var => journalctl --relinquish-var
    journalctl --setup-keys => journalctl --setup-keys
    journalctl --update-catalog => journalctl --update-catalog
    journalctl --cursor-file=/root/x => journalctl --cursor-file
    journalctl -D /root => journalctl -D
    journalctl --directory=/root => journalctl --directory
    journalctl -i /root/secret => journalctl -i
    journalctl --file=/root/secret => journalctl --file
    journalctl --root=/tmp/attack => journalctl --root
    journalctl --image=/dev/vda => journalctl --image
    journalctl --namespace=x => journalctl --namespace
    journalctl -M x => journalctl -M
    journalctl /root/secret => /root/secret
    journalctl -n 1 /proc/1/exe => through /proc
    journalctl -n1 --since '2020-01-01 00:00 ../../../tmp/attack/fifo' => ~
    journalctl -fn0 => ~
    """
)

NETWORK = table(
    """
    ip netns exec x attack-canary => ip netns exec
    ip net exec x attack-canary => ip net
    ip vrf exec x attack-canary => ip vrf exec
    ip -batch batch => ip -batch
    ip -b batch => ip -b
    ip -force -batch batch => ip -force
    ip --batch batch => ip -batch
    ip -ba batch => ip -ba
    ip -n x addr => ip -n
    ip -netns x addr => ip -netns
    ip -a netns exec attack-canary => ip -a
    ip -all netns exec attack-canary => ip -all
    ip link set lo down => ip link set
    ip l set lo down => ip l set
    ip link s lo down => ip link s
    ip link add dummy0 type dummy => ip link add
    ip addr add 10.9.9.9/32 dev lo => ip addr add
    ip a a 10.9.9.9/32 dev lo => ip a a
    ip addr flush lo => ip addr flush
    ip addr save => ip addr save
    ip route add default dev lo => ip route add
    ip r del default => ip r del
    ip route flush table main => ip route flush
    ip rule add from all table 1 => ip rule add
    ip neigh replace 1.2.3.4 dev lo => ip neigh replace
    ip xfrm state => ip xfrm
    ip xfrm policy list => ip xfrm
    ip monitor all => ip monitor
    ip monitor file /root/x => ip monitor
    ip tuntap add mode tap => ip tuntap
    ip macsec show => ip macsec
    ip l2tp show => ip l2tp
    ip token set ::1 dev lo => ip token
    ip addr show dev softdog => kernel module
    ip addr show softdog => kernel module
    ip link show dev pcspkr => kernel module
    ip link show dummy => kernel module
    ip addr show dev softdog:0 => kernel module
    ip route show dev softdog => kernel module
    ip route get 127.0.0.1 oif softdog => kernel module
    ip neigh show dev softdog => kernel module
    ip tunnel show tunl0 => kernel module
    ip maddr show dev softdog => kernel module
    ip vrf show softdog => kernel module
    ip link show type ../../../tmp/attack/evil => ip ../../../tmp/attack/evil
    ip link help softdog => kernel module
    ip -f mpls route => ~
    ip tunnel show => ~
    ss -K => ss -K
    ss -tK dst 127.0.0.1 => ss -K
    ss --kill => ss --kill
    ss --kil => write it in full
    ss -D /tmp/attack/out => ss -D
    ss --diag=/root/out => ss --diag
    ss -F /root/secret => ss -F
    ss --filter=/root/secret => ss --filter
    ss -F file => ss -F
    ss -N x => ss -N
    ss --net=x => ss --net
    ss -tD- => ss -D
    ss dev softdog => kernel module
    ss -t 'dev = softdog' => kernel module
    ss -t dst 'fe80::1%softdog' => kernel module
    netstat -i softdog => kernel module
    netstat -I softdog => netstat -I
    netstat --interfaces=softdog => takes no value
    netstat -A ../x => address families
    netstat -c -i => ~
    ping -f 127.0.0.1 => ping -f
    ping -nf 127.0.0.1 => ping -f
    ping -A 127.0.0.1 => ping -A
    ping -l 1000 127.0.0.1 => ping -l
    ping -i 0 127.0.0.1 => ping -i 0
    ping -i 0.001 127.0.0.1 => ping -i 0.001
    ping -i -1 127.0.0.1 => ping -i -1
    ping -ni0.0 127.0.0.1 => ping -i 0.0
    ping -I softdog 127.0.0.1 => kernel module
    ping -c 1 fe80::1%softdog => kernel module
    ping -c 1 -s 65507 127.0.0.1 => ~
    ping -c 1 -p attack -Q 0xff -t 300 127.0.0.1 => ~
    ping -N help ::1 => ~
    """
)

ROWS = [*SYSTEM, *NETWORK]
