"""What each NBD client can do with a duplexd daemon: docs/interop.md is measured by what is here.

A client is a `Client` with a function for each feature that it has (`libnbd.py` and others); a
feature that it lacks has a reason. What clients do under a hold, and when the daemon goes, is in
`under_load.py`. `page.py` writes the page, tests/interop/test_matrix.py compares it.
"""
