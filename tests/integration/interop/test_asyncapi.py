"""The AsyncAPI document is one, by the schema that the specification comes with."""

import json

import jsonschema_rs
import pytest

from relay.server.asyncapi import asyncapi_document
from tests.integration.interop.conftest import NODE

SCHEMA = NODE / "node_modules" / "@asyncapi" / "specs" / "schemas" / "3.0.0.json"


@pytest.mark.usefixtures("ws_package")
def test_the_asyncapi_document_is_valid() -> None:
    schema = json.loads(SCHEMA.read_text())
    jsonschema_rs.validate(schema, json.loads(json.dumps(asyncapi_document())))
