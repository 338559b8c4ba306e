"""The OpenAPI 3.1 document of the HTTP API, made from its table of operations and the types of its bodies."""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

import msgspec

from relay.server.api_operations import Operation, Parameter
from relay.server.api_schema import Error

_REF = "#/components/schemas/{name}"


def openapi_document(operations: Iterable[Operation], api_prefix: str) -> dict[str, Any]:
    """Return the document.

    Args:
        operations: The operations.
        api_prefix: The path before theirs.
    """
    operations = tuple(operations)
    forms = {form for each in operations for form in (*each.answers.values(), each.body) if form is not None} | {Error}
    ordered = sorted(forms, key=lambda form: form.__name__)
    schemas, components = msgspec.json.schema_components(ordered, ref_template=_REF)
    schema_of = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(api_prefix + operation.path, {})[operation.method] = _operation(operation, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Relay",
            "version": version("trio-relay"),
            "description": "Publish, cancel and read background tasks, whose progress browsers watch live.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"token": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key or a token; not needed where none is configured.",
                }
            },
        },
    }


def _operation(operation: Operation, schema_of: Mapping[type, Mapping[str, Any]]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": [_parameter(each) for each in operation.parameters],
        "responses": {
            str(status): _answer(status, None if form is None else schema_of[form])
            for status, form in operation.answers.items()
        },
    }
    for status in sorted({*operation.refusals, 429}):
        described["responses"][str(status)] = _answer(status, schema_of[Error])
    if operation.body is not None:
        content: dict[str, Any] = {"schema": schema_of[operation.body]}
        if operation.example is not None:
            content["examples"] = {"example": {"value": operation.example}}
        described["requestBody"] = {"required": operation.needs_body, "content": {"application/json": content}}
    return described


def _parameter(parameter: Parameter) -> dict[str, Any]:
    described: dict[str, Any] = {
        "in": parameter.place,
        "name": parameter.name,
        "description": parameter.description,
        "required": parameter.place == "path",
        "schema": dict(parameter.schema),
    }
    if parameter.schema.get("type") == "array":
        described |= {"style": "form", "explode": False}
    return described


def _answer(status: int, schema: Mapping[str, Any] | None) -> dict[str, Any]:
    described: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if schema is not None:
        described["content"] = {"application/json": {"schema": schema}}
    if status in (429, 503):
        seconds = {"schema": {"type": "integer", "minimum": 1}, "description": "Seconds to wait."}
        described["headers"] = {"Retry-After": seconds}
    return described
