"""What one failing part of a real daemon does: measured, and printed as docs/reliability.md.

`cases.py` lists which fault meets which part and what brings it out, `rig.py` is a daemon whose
primaries, secondaries and journal each lie on a faulty disk of their own, `clients.py` is what
clients see, `measure.py` runs a case, `page.py` prints the table:

    python -m tests.support.reliability.page        # runs all cases and writes docs/reliability.md
"""
