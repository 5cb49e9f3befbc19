"""Ways around the guest's policy, as tables, and what finds out whether one of them has worked.

`rows_*.py` are the tables, `guest_setup.py` what an attacker may have put into the guest before, `tracing.py` what the
daemon's commands really did there, `generator.py` command lines by chance, `legitimate.py` what must go on working.
"""
