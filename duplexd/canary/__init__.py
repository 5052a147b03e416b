"""Dependent records over many volumes, and the check that a set of secondaries is one state.

    canary = Canary(members, report=print, rate=200)   # writes, notices cuts, grades them
    await canary.run(stop)

    workload = Workload(placement, write)              # writers alone: the demo and tests use these
    findings = check(placement, images, workload.history, asked, done)

Why: that a cut is consistent is a claim about every write of every volume, and nobody sees a
violation in an image. Here each record names what it depends on, so an inconsistent set of images
shows itself.

`record` is the block, `workload` the writers, `history` what they remember, `checker` the
comparison (pure). `epoch` writes to real volumes, `sighting` is what is certain about a cut that
somebody else makes, `grading` reads the secondaries and delivers the grade. A canary is an NBD
client as any other: it uses nothing of the daemon.
"""
