"""`make man`: writes the man pages and completions to configs/share."""

from __future__ import annotations

from tests.packaging.generated import GENERATED

for path, make in GENERATED.items():
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(make())
    print(path)
