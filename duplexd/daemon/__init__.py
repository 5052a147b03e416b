"""The process: arguments, checks of the machine, the state lock, assembly, signals, systemd.

    checking.check("/etc/duplexd/alpha.toml")       # `duplexd check`: does it fit this machine
    process.run("/etc/duplexd/alpha.toml")          # lock, recover, serve, until SIGTERM

This room only assembles: what a volume, a cut or a request is, is decided in the rooms below.
"""
