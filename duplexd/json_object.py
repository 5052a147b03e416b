"""A JSON object as the standard library reads and writes it: the one place that leaves its values
untyped.

What has a fixed shape has a type instead: the API's models, the journal's markers, named tuples.
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
