"""Replacing the daemon through its own port: what is done in the guest while no daemon is there to do it.

The bundle's installer goes back by itself where the new daemon does not start. Here is what comes after that: to go
back also from a daemon that runs and cannot be reached, and from an update that a crash or power cut has interrupted.
It uses the standard library only: less can be missing.
"""
