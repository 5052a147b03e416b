"""`python -m duplexd` is `duplexd`."""

from duplexd.daemon import main

main()
