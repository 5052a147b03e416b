"""The NBD protocol without I/O: bytes in, requests or replies out. Imports nothing of duplexd.

    handshake = Handshake(exports, options_max=...)    # server: which export, which flags
    receiver = Receiver(size)                          # server: requests, parsed in place
    requests = receiver.received(count)
    client = NbdClient("data")                         # client: requests and their replies

Why without I/O: both halves are tested against each other over a fake wire, cut into pieces of any
size, and the same parser serves asyncio, a fuzzer and a simulation. The room is also part of the
package `duplexd_nbd`, so it imports itself by relative paths.

`constants` has the numbers of the specification, `messages` the byte tables, `uri` the addresses.
"""
