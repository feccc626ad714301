"""The OpenAPI document, the routes and the problem codes say the same."""

import re
from pathlib import Path

import jsonschema_rs
import msgspec
import pytest

from domain.outcomes import Problem
from domain.settings import Settings
from gateway.docs_page import docs_html
from gateway.openapi import ALL_PROBLEMS, document
from tests.support.provider import new_key
from tests.support.shop import open_shop


async def test_document_lists_the_routes_and_nothing_else(settings: Settings) -> None:
    """Every route that a worker serves is in the document, and the reverse."""
    async with open_shop(settings) as shop, shop.worker() as url:
        listed = {(path, method) for path, methods in document()["paths"].items() for method in methods}
        for path, method in listed:
            async with shop.session.request(method, url + path.replace("{id}", "x")) as answer:
                assert answer.status not in {405, 500}
                # The answer of a route has a detail; the one for paths that no route has has none.
                assert answer.status != 404 or "detail" in await answer.json(content_type=None)
        for path in ("/", "/v1", "/v1/orders/x/y", "/metrics", "/ops"):
            async with shop.session.get(url + path) as answer:
                assert answer.status == 404


def test_schemas_are_valid_and_references_resolve() -> None:
    """Every schema is valid JSON Schema 2020-12, and every reference leads to one."""
    whole = document()
    schemas = whole["components"]["schemas"]
    for schema in schemas.values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
    for name in re.findall(r"#/components/schemas/(\w+)", str(whole)):
        assert name in schemas


def test_every_problem_is_documented() -> None:
    """The stable codes in the document are those of domain.outcomes."""
    assert {one.code for one in ALL_PROBLEMS} == set(
        document()["components"]["schemas"]["ProblemDocument"]["properties"]["code"]["enum"]
    )
    assert all(isinstance(one, Problem) for one in ALL_PROBLEMS)


def test_page_needs_no_network() -> None:
    """The page of the document loads nothing from anywhere."""
    assert not re.search(rb"(src|href)=[\"']?https?:|@import|<script", docs_html())


@pytest.mark.slow
async def test_schemathesis_finds_nothing(settings: Settings, tmp_path: Path) -> None:
    """Requests generated from the document get answers that the document allows, and never a 500."""
    import asyncio
    import sys

    paying = msgspec.structs.replace(
        settings, payment=msgspec.structs.replace(settings.payment, key_file=new_key(tmp_path))
    )
    async with open_shop(settings) as shop, shop.worker(paying) as url:
        ran = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--url", url),
            *("--header", f"Authorization: {shop.bearer('ann')['Authorization']}"),
            *("--checks", "not_a_server_error,status_code_conformance,content_type_conformance"),
            *("--checks", "response_schema_conformance,response_headers_conformance"),
            *("--max-examples", "60", "--generation-deterministic", "--no-color"),
            cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await ran.communicate()
        assert ran.returncode == 0, out.decode()
