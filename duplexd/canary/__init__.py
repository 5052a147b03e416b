"""Dependent records over many volumes, and the proof that a set of secondaries is one state that existed: the writers, the checker, the canary."""
