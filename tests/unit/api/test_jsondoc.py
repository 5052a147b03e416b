"""docs/json.md says what the models say."""

from __future__ import annotations

import re
from pathlib import Path

from duplexd.api import jsondoc
from duplexd.api.models.status_model import VolumeStatus

PAGE = Path(__file__).resolve().parents[3] / "docs" / "json.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == jsondoc.page(), "run: python -m duplexd.api.jsondoc > docs/json.md"


def test_the_page_names_every_field_of_the_status() -> None:
    section = jsondoc.page().partition("### VolumeStatus\n")[2].partition("\n### ")[0]
    for name, field in VolumeStatus.model_fields.items():
        assert f"| `{field.alias or name}` |" in section


def test_every_model_that_is_named_has_its_section() -> None:
    page = jsondoc.page()
    named = set(re.findall(r"\]\(#([a-z]+)\)", page))
    sections = {line.removeprefix("### ").lower() for line in page.splitlines() if "### " in line}
    assert not named - sections
