"""`python -m duplexd` is `duplexd`."""

from duplexd.daemon.program import main

main()
