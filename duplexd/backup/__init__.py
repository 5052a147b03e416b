"""Backups: a cut is copied, the copies are compared with it, and only then there is a backup. They
are restored to the volumes.

A client like any other: it suspends with a named reader, reads the points over NBD, and resyncs.
Programs of QEMU write and compare the images, so that every hypervisor can open them.

`steps` is the table of what a run does, and of what is left of one that was killed. `run` goes
through it; `destination` is the directory, and who works in it; `held_cut` the cut that is read;
`sources` says where, `programs` and `copies` run qemu-img, `second_reader` asks `verify_cut`;
`increment` and `overlays` copy what changed since an older backup; `proofs` says which older images
need not be read again, `side_by_side` reads an image beside its volume. Pure:
`steps`, `saved` (what lies beside the images) and `retention` (which backups are kept).
`restore` goes the other way: `chosen` says which backup is meant, `write_back` writes what differs,
`scratch` is the directory of its sockets.
`catalogue` lists and checks what is there, and `freshness` says what is too old. `own_command` lets
another program copy, `on_clones` lets one try clones of a cut.
"""
