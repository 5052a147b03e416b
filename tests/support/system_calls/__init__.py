"""Every system call of a scripted day that changes a file, met one by one.

ptrace.py   a process whose calls stop, by seccomp and ptrace
tracer.py   names each call by its place in the day, and lets one of them fail or be the last
launch.py   the program: a daemon with small limits, and the tracer beside it
world.py    the files, the daemon and what its clients know
day.py      what is done, step by step
aftermath.py  what has to hold once a call failed or the process died
"""
