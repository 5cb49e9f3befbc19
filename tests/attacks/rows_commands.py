"""What the programs of the default list that read files could do: read others, write, run programs."""

from __future__ import annotations

from .rows import table

FILES = table(
    """
    cat /etc/shadow => /etc/shadow
    cat -A -- /root/secret => /root/secret
    cat ../../root/secret => /root/secret
    cat /tmp/attack/../../etc/shadow => /etc/shadow
    cat //etc//shadow => shadow
    cat /./etc/./shadow => shadow
    cat /etc/shadow/ => shadow
    cat /tmp/attack/missing/../../../root/secret => /root/secret
    cat link-shadow => /etc/shadow
    cat ./link-root/secret => /root/secret
    cat hard => hard link
    cat link-proc/1/environ => through /proc
    cat /proc/self/root/root/secret => through /proc
    cat /proc/self/environ => through /proc
    cat /proc/1/environ => through /proc
    cat /dev/fd/0 => through /proc
    cat /dev/stdin => /dev
    cat /dev/mem => /dev
    cat /dev/vda => /dev
    cat /sys/kernel/notes => /sys
    cat /etc/ssh/ssh_host_ed25519_key => ssh
    cat /home/attack/.ssh/id_ed25519 => SSH keys
    cat /etc/vsrpc/guest.yaml => daemon
    cat file /root/secret file => /root/secret
    cat file - /root/secret => /root/secret
    cat --show-all /root/secret => /root/secret
    cat --invented=/root/secret => cat --invented
    cat *shadow => /etc/shadow
    cat /etc/shado? => Path not in allowed list
    cat /etc/[s]hadow => Path not in allowed list
    cat /root/* => /root
    cat link-root/* => /root
    head -c 100 /root/secret => /root/secret
    head -n1 -- /root/secret => /root/secret
    head --bytes=9 /root/secret => /root/secret
    head --byte=9 file /root/secret => write it in full
    head -qn 1 file link-shadow => /etc/shadow
    tail -n +1 /root/secret => /root/secret
    tail -f /root/secret => /root/secret
    tail -F /root/secret => /root/secret
    tail --follow=name --retry /root/secret => /root/secret
    tail -5 /root/secret => /root/secret
    tail +1 /root/secret => /root/secret
    tail ---presume-input-pipe /root/secret => write it in full
    tail -n1f /root/secret => /root/secret
    wc -c /root/secret => /root/secret
    wc --files0-from=list => wc --files0-from
    wc --files0-from - => wc --files0-from
    wc --files0=list => write it in full
    wc -lL -- link-root/secret => /root/secret
    md5sum /root/secret => /root/secret
    md5sum -c sums => md5sum -c
    md5sum --check sums => md5sum --check
    md5sum --chec sums => write it in full
    sha256sum -bc sums => sha256sum -c
    sha256sum hard => hard link
    sha256sum < /root/secret => /root/secret
    grep . /root/secret => /root/secret
    grep -r . /root => /root
    grep -r . link-root => /root
    grep -r . link-root/ => /root
    grep -R . . => grep -R
    grep --dereference-recursive . . => grep --dereference-recursive
    grep -rs . /etc => /etc
    grep -f /root/secret file => /root/secret
    grep -f/root/secret file => /root/secret
    grep -nf /root/secret file => /root/secret
    grep -vf /root/secret -- file => /root/secret
    grep --file=/root/secret file => /root/secret
    grep --fil=/root/secret file => write it in full
    grep --exclude-from=/root/secret -r x . => /root/secret
    grep -e x --exclude-from /root/secret file => /root/secret
    grep -d recurse . /etc => grep -d
    grep -drecurse . /etc => grep -d
    grep --directories=rec . /etc => grep -directories
    grep -e . -- /root/secret => /root/secret
    grep file -e . /root/secret => /root/secret
    grep -c . /root/secret file => /root/secret
    grep -r . => hard link
    grep -P '(?{system(q(id))})' file => ~
    file /root/secret => /root/secret
    file -C -m magic => file -C
    file --compile -m magic => file --compile
    file -m magic file => file -m
    file --magic-file=magic file => file --magic-file
    file -f list => file -f
    file --files-from list => file --files-from
    file -z archive.gz => file -z
    file -Z archive.gz => file -Z
    file --uncompress archive.gz => file --uncompress
    file --unc archive.gz => write it in full
    file -bz archive.gz => file -z
    file -S file => file -S
    file -s /dev/vda => /dev
    file -L link-shadow => /etc/shadow
    stat /root/secret => /root/secret
    stat -L link-root/secret => /root/secret
    stat /proc/1/exe => through /proc
    stat --printf=%n /etc/shadow => /etc/shadow
    stat /etc/vsrpc/guest.yaml => daemon
    ls /root => /root
    ls -la /root/ => /root
    ls -R link-root => /root
    ls --time-style=+%s /proc => /proc
    ls /etc/vsrpc => daemon
    ls -L link-root => /root
    ls --hide=x --ignore /x /root => /root
    du -a /root => /root
    du -X /root/secret . => /root/secret
    du -X/root/secret . => /root/secret
    du --exclude-from=/root/secret . => /root/secret
    du --files0-from=list => du --files0-from
    du -L link-root => /root
    df /root/secret => /root/secret
    df /dev/vda => /dev
    df --sync => ~
    which /root/secret => /root/secret
    which -a /root/.profile => /root/.profile
    which --read-alias => which --read-alias
    """
)

FIND = table(
    """
    find . -exec attack-canary ; => find -exec
    find . -exec attack-canary {} + => {
    find . -exec attack-canary '{}' + => find -exec
    find . '-exec' attack-canary ';' => find -exec
    find . -ex""ec attack-canary ';' => find -exec
    find . -execdir attack-canary ';' => find -execdir
    find . -ok attack-canary ';' => find -ok
    find . -okdir attack-canary ';' => find -okdir
    find . -name x -o -exec attack-canary ';' => find -exec
    find . -printf -exec attack-canary ';' => find -exec
    find . -name -exec attack-canary ';' => find -exec
    find . $E attack-canary ';' => find -exec
    find . "$E" attack-canary ';' => find -exec
    find -D exec . -exec attack-canary ';' => find -exec
    find -D exec . => find -D
    find -O3 -exec attack-canary ';' => find -exec
    find . -delete => find -delete
    find . -depth -delete => find -delete
    find . -fprint /tmp/attack/out => find -fprint
    find . -fprint0 out => find -fprint0
    find . -fprintf out %p => find -fprintf
    find . -fls out => find -fls
    find -files0-from list => find -files0-from
    find /root => /root
    find -L link-root => /root
    find . /root -name x => /root
    find /proc/self/ => through /proc
    find . -newer /root/secret => /root/secret
    find . -samefile /root/secret => /root/secret
    find . -anewer /proc/1/exe => through /proc
    find . -newermt 'TZ="/dev/watchdog" 0' => the time zone
    find . -newerBt 'TZ="../../../root/secret" 0' => the time zone
    find . -neweram /root/secret => /root/secret
    find -exec => find -exec
    find -- . => find --
    find - -exec attack-canary ';' => find -exec
    find . --exec attack-canary => find --exec
    find . -EXEC attack-canary ';' => find -EXEC
    find ! -delete => find -delete
    find '(' -delete ')' => find -delete
    find , -delete => find -delete
    """,
    env={"E": "-exec"},
)

ROWS = [*FILES, *FIND]
