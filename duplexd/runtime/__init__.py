"""What the machine offers, as parameters: files, threads, time, the service manager, the log.

    disk, clock = RealDisk(), RealClock()           # tests pass simulated ones
    workers = ThreadWorkers(loop, "disk", 4)
    content = await workers.run(lambda: disk.read_file(path))
    await to_its_end(workers.run(lambda: disk.replace_file(path, content)))

    notify("READY=1")                               # sd_notify

Nothing here knows what it is used for, but `hooks.py`, which the daemon and the coordinator share.
Whatever is wanted from the operating system by more than one room is here once.
"""
