"""NBD connections in front of a `Backend` (`duplexd.backend`).

    listeners = Listeners(backend, [UnixAddress("/run/duplexd/nbd.sock")], NbdLimits())
    await listeners.start()
    ...
    await listeners.update(addresses)       # a reload: connections stay
    await listeners.stop()                  # answers what is in flight, then closes

`listeners.py` accepts, `nbd_connection.py` moves bytes, `dispatch.py` turns requests into changes
and reads, `shared.py` has what all connections share. The rules of the protocol are in
`duplexd.nbd`; what a change does is the backend's business.
"""
