"""The audit log: who did what, as lines of JSON.

`log` decides what is written, `arguments` and `redact` what of a request is shown, `sink` where it goes.
"""
