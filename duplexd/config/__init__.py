"""Both TOML files: the daemon's, and the groups file of clients.

    config = load("/etc/duplexd/alpha.toml")    # load.py: a frozen Config, or every mistake
    config.volumes["data"].size
    config.nbd.listen                           # typed addresses

    groups = groups_file.load("/etc/duplexd/groups.toml")
    group = groups.resolve(["db"])

A single value is checked by `values.py`, values against each other by `together.py`; `explain.py`
turns what pydantic found into lines for the person who wrote the file.
"""
