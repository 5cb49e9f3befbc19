"""`make bench`: what vsrpc costs, on a real VM beside a raw port, qemu-ga and ssh, or over `local:` by itself.

Everything that is compared is measured in one run, contender after contender within each round, so that whatever else
the machine does meets all of them alike.
"""
