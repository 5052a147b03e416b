"""What answers about the images of a pair must hold: roles, repairs, and going back.

Apart from `answers.py`, which has the rules and all routes, because these are commands on images
and the others are about cuts.
"""

from __future__ import annotations

from duplexd.client.shapes import each, fields, flag, maybe, number, text, whole

LOST = fields(
    {},
    {
        "records": maybe(whole),
        "first": maybe(whole),
        "last": maybe(whole),
        "bytes": whole,
        "since": maybe(number),
    },
)
ROLES = fields(
    {
        "volumes": each(
            fields(
                {"name": text, "state": text, "primary": text},
                {
                    "reason": maybe(text),
                    "secondary": maybe(text),
                    "lost": maybe(LOST),
                    "taken": each(text),
                    "secondary_error": maybe(text),
                },
            )
        )
    }
)
REPAIRED = fields(
    {
        "volumes": each(
            fields(
                {
                    "name": text,
                    "from": text,
                    "path": text,
                    "ranges": each(each(whole)),
                    "bytes": whole,
                    "repaired": flag,
                }
            )
        )
    },
    {"no_difference": each(text)},
)
ROLLED_BACK = fields(
    {
        "id": text,
        "cut": text,
        "volumes": each(
            fields(
                {
                    "name": text,
                    "served": flag,
                    "compared_bytes": whole,
                    "differing_bytes": whole,
                    "written_bytes": whole,
                }
            )
        ),
    },
    {"tag": text},
)
RESTORING = fields(
    {"id": text, "backup": text, "volumes": each(fields({"name": text, "undo": text}))}
)
