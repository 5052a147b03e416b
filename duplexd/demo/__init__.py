"""`duplexd demo`: shows on a real daemon what a group cut is good for, and that its check can fail.

    async with Scene(daemon, placement) as scene:      # dependent writers on its volumes
        cut = await scene.cut_group()                  # all secondaries at one point
        naive = await scene.cut_one_by_one()           # one after the other, as without duplexd

Why a naive split beside each cut: a check that never finds anything proves nothing. `main` is the
program, `daemon` the child process, `scene` the writers and the cuts, `show` the table.
"""
