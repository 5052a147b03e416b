"""A second reader: checks a cut afterwards, by its certificate, the journals and the images alone.

    document = document.read("cut.json", limits)       # the certificate
    report = check(document, {}, {}, limits)           # reads journals and images, takes no lock
    report.outcome                                     # "confirmed", "recorded", ...

Why it is a room of its own: a check that used the code under test would repeat its mistakes. It
shares with the write path only the byte tables of `journal/format.py`, and import-linter keeps it
so.

`document` parses the certificate, `segments` and `walk` read the journal, `story` is what its
markers say of the cut, `past` what checkpoint and lock say, `contents` compares bytes, `report` is
the result.
"""
