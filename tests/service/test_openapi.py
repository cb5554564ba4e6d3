"""The OpenAPI document tells the truth, and the request path stays light."""

import subprocess
import sys

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance

from chopmark.service.openapi import describe

from . import shop
from .conftest import Server

PATHS = sorted(describe(shop.application().catalog.schema, open_to_all=True)["paths"])


@pytest.mark.parametrize("path", PATHS)
def test_answers_are_as_documented(server: Server, path: str) -> None:
    """Whatever schemathesis makes of the document, the answer is one that it promises."""
    schema = schemathesis.openapi.from_url(f"{server.url}/schema")
    statuses = set()
    for operation in schema[path].values():

        @given(operation.as_strategy())
        @settings(
            max_examples=60,
            deadline=None,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def check(case: schemathesis.Case) -> None:
            # JSON Schema cannot say that an amount has at most two decimals, so valid by the
            # document is not always valid.
            found = case.call_and_validate(excluded_checks=[positive_data_acceptance])
            statuses.add(found.status_code)

        check()
    assert statuses & {200, 404}


def test_the_import_of_the_service_is_light() -> None:
    code = (
        "import sys, chopmark.service.app, chopmark.service.server\n"
        "print(sorted({'torch', 'sklearn', 'lightgbm', 'pandas'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_bodies_are_the_event_types() -> None:
    document = describe(shop.application().catalog.schema, open_to_all=False)
    schemas = document["components"]["schemas"]
    assert schemas["Purchase"]["additionalProperties"] is False
    assert "known_at" not in schemas["Purchase"]["properties"]
    assert {one["$ref"].rsplit("/", 1)[1] for one in schemas["Event"]["oneOf"]} == {
        "Purchase",
        "Login",
        "Outage",
    }
    assert schemas["Decidable"]["discriminator"]["mapping"].keys() == {"purchase", "login"}
    batch = document["paths"]["/v1/assess/batch"]["post"]
    assert "Repeat the whole batch" in batch["description"]
    for path in ("/v1/assess", "/v1/assess/batch", "/v1/events"):
        assert "all or none" not in str(document["paths"][path])
        assert "409" in document["paths"][path]["post"]["responses"]
    assert document["security"] == [{"key": []}]
    assert document["paths"]["/health"]["get"]["security"] == []
