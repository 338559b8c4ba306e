"""The descriptions of the APIs, and a page to read them: no script, nothing from elsewhere, under the strictest policy."""

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping
from hashlib import sha256
from html import escape
from typing import Any

from quart import Response
from quart_trio import QuartTrio

from relay.server.api_operations import OPERATIONS
from relay.server.api_responses import json_of, tagged
from relay.server.asyncapi import asyncapi_document
from relay.server.openapi import openapi_document

#: Paths below the API's prefix that are the same for everybody.
DOCUMENTS = ("openapi.json", "asyncapi.json", "docs")

_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "code,pre{font:14px/1.4 ui-monospace,monospace}"
    "pre{padding:.75rem;overflow:auto;border:1px solid #8886;border-radius:.4rem}"
    "table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;padding:.25rem .75rem .25rem 0}"
    "section{margin:2.5rem 0}h2 code{font-size:1.1rem}.method{text-transform:uppercase;font-weight:700}"
)
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{b64encode(sha256(_STYLE.encode()).digest()).decode()}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def add_documents(app: QuartTrio, api_prefix: str) -> None:
    """Add the routes to an app.

    Args:
        app: The app.
        api_prefix: The path before those of the API.
    """
    openapi, asyncapi = openapi_document(OPERATIONS, api_prefix), asyncapi_document()
    bodies = {"openapi.json": json_of(openapi), "asyncapi.json": json_of(asyncapi)}
    page = "".join(_page(openapi, asyncapi, api_prefix)).encode()

    @app.get(f"{api_prefix}/openapi.json")
    async def show_openapi() -> Response:
        """Describe the HTTP API."""
        return tagged(bodies["openapi.json"])

    @app.get(f"{api_prefix}/asyncapi.json")
    async def show_asyncapi() -> Response:
        """Describe the messages of `/ws/tasks` and `/events`."""
        return tagged(bodies["asyncapi.json"])

    @app.get(f"{api_prefix}/docs")
    async def show_page() -> Response:
        """Show both to a reader."""
        headers = {
            "cache-control": "no-cache",
            "content-security-policy": _POLICY,
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
        }
        return Response(page, 200, headers, content_type="text/html; charset=utf-8")


def _page(openapi: Mapping[str, Any], asyncapi: Mapping[str, Any], api_prefix: str) -> Iterator[str]:
    yield f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Relay: HTTP API</title><style>{_STYLE}</style>'
    yield '<meta name="viewport" content="width=device-width,initial-scale=1"></head><body><h1>Relay</h1>'
    yield f"<p>{escape(openapi['info']['description'])} The same for programs: "
    yield f'<a href="{api_prefix}/openapi.json">OpenAPI</a>, <a href="{api_prefix}/asyncapi.json">AsyncAPI</a>.</p>'
    schemas = openapi["components"]["schemas"]
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            yield from _operation(method, path, operation, schemas)
    yield "<h1>Messages</h1>"
    yield "<p>JSON, one object per text frame of <code>/ws/tasks</code>; <code>/events</code> has the updates.</p>"
    for name, operation in asyncapi["operations"].items():
        if operation["channel"]["$ref"].endswith("/tasks"):
            yield f"<section><h2>{'Clients send' if name == 'fromClients' else 'The relay sends'}</h2>"
            for reference in operation["messages"]:
                yield from _message(asyncapi["components"]["messages"][reference["$ref"].rsplit("/", 1)[1]])
            yield "</section>"
    yield "</body></html>"


def _operation(method: str, path: str, operation: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[str]:
    yield f'<section id="{escape(operation["operationId"])}">'
    yield f'<h2><code><span class="method">{method}</span> {escape(path)}</code></h2>'
    yield f"<p>{escape(operation['summary'])}</p>"
    if operation["parameters"]:
        yield "<table><tr><th>parameter</th><th>in</th><th></th></tr>"
        for each in operation["parameters"]:
            yield f"<tr><td><code>{escape(each['name'])}</code></td><td>{each['in']}</td>"
            yield f"<td>{escape(each['description'])}</td></tr>"
        yield "</table>"
    if "requestBody" in operation:
        content = operation["requestBody"]["content"]["application/json"]
        yield f"<h3>Body{'' if operation['requestBody']['required'] else ', which may be left out'}</h3>"
        yield from _fields(content["schema"], schemas)
        for example in content.get("examples", {}).values():
            yield f"<pre>{escape(json.dumps(example['value'], indent=2))}</pre>"
    yield "<h3>Answers</h3><table>"
    for status, answer in operation["responses"].items():
        schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
        form = schemas[schema["$ref"].rsplit("/", 1)[1]]["description"] if "$ref" in schema else ""
        yield f"<tr><td>{status}</td><td>{escape(answer['description'])}</td><td>{escape(form)}</td></tr>"
    yield "</table></section>"


def _fields(reference: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[str]:
    schema = schemas[reference["$ref"].rsplit("/", 1)[1]]
    yield f"<p>{escape(schema['description'])}</p><table>"
    for name, each in schema["properties"].items():
        need = "required" if name in schema.get("required", ()) else ""
        yield f"<tr><td><code>{escape(name)}</code></td><td>{need}</td><td>{escape(each.get('description', ''))}</td></tr>"
    yield "</table>"


def _message(message: Mapping[str, Any]) -> Iterator[str]:
    yield f"<h3>{escape(message['name'])}</h3><p>{escape(message['summary'])}</p>"
    for example in message["examples"]:
        yield f"<pre>{escape(json.dumps(example['payload']))}</pre>"
