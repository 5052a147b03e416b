"""NBD for asyncio: a client and a server as thin shells around the protocol in `nbd`.

    from duplexd.nbd_aio.connecting import connect

    async with connect("nbd+unix:///data?socket=/run/nbd.sock") as disk:
        block = await disk.read(0, 4096)

    async with serve({"data": export}, "nbd://127.0.0.1:10809") as server:
        await server.serve_forever()

Why: the canary, restores and tests need an NBD client, and nothing in it is about duplexd. Together
with `nbd` this room is the package `duplexd_nbd`, which has no dependencies; so it imports `nbd`
and the standard library, and both by relative paths. The server of the daemon is another one
(`nbd_server`): it runs no task for a request.

Nothing is imported here, because the daemon needs `hangup` alone.

`nbd_disk` is the client's connection, `connecting` what opens one, `request_error` what it raises.
`served_export` is what a server is given, `executing` a request on it, `server_connection` the
bytes and the bounds of a client, `serving` what listens, `hangup` how a client is missed that is
not read from.
"""
