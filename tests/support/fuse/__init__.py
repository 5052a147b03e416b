"""A disk that fails, hangs, fills up and forgets when a test says so: a FUSE file system.

    with faulty_disk(tmp_path / "b") as disk:              # a mount; files go to tmp_path/"b.disk"
        bad = disk.fail("read", "data.img", start=8192, end=12288)      # one bad sector
        bad.lift()
        stuck = disk.hang("write")                         # every write, until it is lifted
        stuck.wait_met()
        stuck.lift(error=errno.EIO)                        # as a disk that gives up at last
        disk.fill(room_bytes=1 << 20)                      # ENOSPC after one more MiB
        disk.read_only()
        disk.forget()                                      # what was not synced is gone

It is a process of its own (`server.py`), so that what hangs in it hangs nobody else, and speaks the
protocol of /dev/fuse itself (`protocol.py`). Libraries were considered: mfusepy (libfuse by ctypes,
paths instead of inodes) and pyfuse3 (needs a compiler and libfuse's headers). Neither passes on
INTERRUPT, lseek or O_TMPFILE, pyfuse3 no fallocate either, and in both a request that hangs takes a
thread, of which there are ten. Here a hung request is put aside and takes none, and a process that
waits for one can be killed.

What can be killed. The kernel lets a task that waits for an answer die only if the file system
answers the INTERRUPT that the kernel sends for it. A hang is therefore `killable` by default: the
process ends as with a hard NFS mount. With `killable=False` it is stuck in the kernel (state D), as
over a dead local disk, until the hang is lifted or the disk closed. Either way the requests that
hang are answered with ENOTCONN when the server ends, so that closing the disk frees everyone.

Every read and write reaches the server: no page cache is in between (FOPEN_DIRECT_IO), unless
`cached=True`. There is no sync of what is below: a sync here only ends what can be forgotten.
Creating, renaming and deleting files is durable at once, as on a journaling file system that is
generous. What /dev/fuse cannot do is refused with ENOTSUP or ENOSYS: RWF_NOWAIT, ioctl, exchanging
names, copy_file_range (the kernel copies by reads and writes then).
"""

from tests.support.fuse.disk import ActiveFault, FaultyDisk, faulty_disk

__all__ = ["ActiveFault", "FaultyDisk", "faulty_disk"]
