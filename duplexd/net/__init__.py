"""Addresses, listening sockets and TLS contexts: parsed, bound and made in one place each.

    address = parse_address("unix:/run/duplexd/nbd.sock")
    (bound,) = bind(address)                        # the socket listens, nothing accepts yet
    ...
    bound.close()                                   # the file goes too, if it is still ours

    context = server_context(config.control.tls)    # or client_context(entry, "controllers.beta")

Programs differ in what they do with a connection, not in how they find, own and protect the socket.
"""
