"""Requests generated from the OpenAPI document, answers checked against it, on a live socket."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.core.result import Ok

from duplexd.api.openapi import document
from duplexd.api.routes import ROUTES
from tests.support.control_plane import ControlPlane

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EXAMPLES = 15
SCHEMA = schemathesis.openapi.from_dict(document(ROUTES))
OPERATIONS: dict[str, Any] = {
    found.ok().label: found.ok() for found in SCHEMA.get_all_operations() if isinstance(found, Ok)
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx2.Client]:
    path: Path = tmp_path_factory.mktemp("openapi") / "c.sock"
    plane = ControlPlane(path)
    plane.controller.hold_scale = 0.005
    with httpx2.Client(
        transport=httpx2.HTTPTransport(uds=str(path)), base_url="http://localhost", timeout=60
    ) as made:
        yield made
    plane.stop()


def send(client: httpx2.Client, case: Any) -> httpx2.Response:
    if case.path == "/v1/events":
        case.query = {**(case.query or {}), "follow": "false"}  # the other never ends
    request = case.as_transport_kwargs(base_url="http://localhost")
    body = (
        {"content": json.dumps(request["json"])}
        if "json" in request
        else {"content": request.get("data")}
    )
    return client.request(
        request["method"],
        request["url"],
        params=request.get("params"),
        headers=request.get("headers"),
        **body,
    )


@pytest.mark.parametrize("label", sorted(OPERATIONS))
def test_what_the_document_says_is_what_is_answered(client: httpx2.Client, label: str) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        derandomize=True,
    )
    @given(case=OPERATIONS[label].as_strategy())
    def check(case: Any) -> None:
        response = send(client, case)
        assert response.status_code < 500, response.text
        case.validate_response(response)

    check()


def test_every_route_is_tried() -> None:
    assert len(OPERATIONS) == len(ROUTES)


@pytest.mark.parametrize("path", ["/v1/suspend", "/v1/quiesce", "/v1/resync", "/v1/verify"])
def test_a_valid_request_is_done_and_its_lines_fit_the_document(
    client: httpx2.Client, path: str
) -> None:
    response = client.post(path, json={"targets": ["data"]})
    assert response.status_code == 200
    assert (
        response.headers["content-type"]
        in document(ROUTES)["paths"][path]["post"]["responses"]["200"]["content"]
    )
