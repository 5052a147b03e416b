"""What is not well with the controllers of a group: each is asked, and one answer made of it.

A controller that does not answer is no finding of the others. It has an error of its own, because
nothing is known of what it would have said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from duplexd.client import survey
from duplexd.client.results import Wellness
from duplexd.errors import TimedOutError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from duplexd.client.http import Http
    from duplexd.config.groups import Group
    from duplexd.errors import DuplexdError
    from duplexd.json_object import Json


async def ask(group: Group, links: Mapping[str, Http], everything: bool) -> Wellness:
    """`everything`: all volumes of the controllers. Raises if none of them answers."""
    silent = await survey.identify(links)
    answers, refused = await survey.gather(
        {
            name: _ask(link, () if everything else group.members[name])
            for name, link in links.items()
            if name not in silent
        }
    )
    errors = silent | refused
    if not answers:
        survey.raise_all(errors)
    findings = [
        _titled(group, name, answer, finding)
        for name, answer in answers.items()
        for finding in answer["findings"]
    ]
    return Wellness(
        well=not findings and not errors,
        volumes=sum(answer["volumes"] for answer in answers.values()),
        findings=sorted(findings, key=lambda finding: str(finding["severity"])),
        unreachable={name: str(error) for name, error in errors.items()},
        exit_codes={name: _code(error) for name, error in errors.items()},
    )


async def _ask(link: Http, targets: Iterable[str]) -> Json:
    query = urlencode([("target", target) for target in targets])
    path = "/v1/health" + ("?" + query if query else "")
    return await link.call("GET", path, timeout_s=link.limits.answer_seconds_max)


def _titled(group: Group, name: str, answer: Json, finding: Json) -> Json:
    called = answer["controller"] if group.alone else name
    volume = finding["volume"] and group.title(name, finding["volume"])
    return finding | {"controller": called, "volume": volume}


def _code(error: DuplexdError) -> int:
    silent = isinstance(error, TimedOutError)
    return UnreachableError.exit_code if silent else error.exit_code
