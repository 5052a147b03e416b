"""The process: arguments, checks of the machine, the state lock, assembly, signals, systemd.

    settings = load_in_time("/etc/duplexd/alpha.toml")  # loading.py; a disk under it may hang
    checking.check("/etc/duplexd/alpha.toml")       # `duplexd check`: does it fit this machine
    process.run(settings)                           # lock, recover, serve, until SIGTERM

This room only assembles: what a volume, a cut or a request is, is decided in the rooms below.
"""
