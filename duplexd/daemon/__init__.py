"""The process: arguments, checks of the machine, the state lock, assembly, signals, systemd.

    settings = load("/etc/duplexd/alpha.toml")      # program.py, after click
    preflight.look(settings)                        # `duplexd check`: what the machine says
    service.run(settings)                           # lock, recover, serve, until SIGTERM

Everything is put together here and nothing is decided: what a volume, a cut or a request is, the
rooms below know.
"""
