"""`make bench`: duplexd beside nbdkit and a mirroring qemu-storage-daemon, in one run.

Not part of the tests.
"""
