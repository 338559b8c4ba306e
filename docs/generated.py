"""Reference pages that come from the code: commands, metrics, the dashboard, close codes, schemas, and the JavaScript API.

The site's hooks build them, so they cannot differ from the code.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import typer.main
import yaml
from prometheus_client.core import Metric
from prometheus_client.metrics import MetricWrapperBase

from relay.cli import app
from relay.core.closecodes import Close
from relay.metrics import Metrics, RedisCollector
from relay.server.api_operations import OPERATIONS
from relay.server.asyncapi import asyncapi_document
from relay.server.openapi import openapi_document

_SOURCES = Path(__file__).parent.parent / "clients" / "js" / "src"


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|").replace("<", "&lt;")


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines) + "\n"


def _option_rows(command: Any) -> Iterator[tuple[str, str]]:
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            yield f"`{parameter.metavar or parameter.name.upper()}`", _cell(parameter.help)
        elif not parameter.hidden:
            yield ", ".join(f"`{name}`" for name in parameter.opts), _cell(parameter.help)


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """Yield the commands and those below them. Typer's classes are its own."""
    if hasattr(command, "commands"):
        for word, inner in command.commands.items():
            yield from _commands(f"{name} {word}", inner)
    elif not command.hidden:
        yield name, command


def commands() -> str:
    """Return the page of the command `relay`."""
    parts = ["# The command relay\n", "`relay COMMAND --help` prints the same. [Exit statuses](../troubleshoot.md)\n"]
    for name, command in sorted(_commands("relay", typer.main.get_command(app)), key=lambda each: each[0]):
        rows = list(_option_rows(command))
        said, _, examples = command.help.partition("\b\nExamples:\n")
        parts += [f"## {name}\n", f"{_cell(said)}\n"]
        if rows:
            parts.append(_table(("option or argument", "meaning"), iter(rows)))
        lines = "\n".join(line.strip() for line in examples.strip().splitlines())
        parts += [f"```shell\n{lines}\n```\n", f"{_cell(command.epilog)}\n"]
    return "\n".join(parts)


def metrics() -> str:
    """Return the page of metrics."""

    def rows() -> Iterator[tuple[str, ...]]:
        for metric in vars(Metrics()).values():
            if isinstance(metric, MetricWrapperBase):
                (family,) = metric.describe()
                yield _metric_row(family, metric._labelnames)
        for family in RedisCollector().collect():
            yield _metric_row(family, ("server",))

    text = "Each relay has them on `/metrics`. With `--workers` they are those of all its processes.\n"
    return "\n".join(["# Metrics\n", text, _table(("metric", "type", "labels", "meaning"), rows())])


def _metric_row(family: Metric, labels: Iterable[str]) -> tuple[str, ...]:
    name = family.name + ("_total" if family.type == "counter" else "")
    return f"`{name}`", family.type, ", ".join(f"`{label}`" for label in labels), _cell(family.documentation)


def dashboard() -> str:
    """Return the page of the dashboard's queries and of the alerts."""
    docker = Path(__file__).parent.parent / "docker"
    panels = json.loads((docker / "grafana" / "relay.json").read_text())["panels"]
    groups = yaml.safe_load((docker / "prometheus" / "alerts.yml").read_text())["groups"]
    selector = re.compile(r'job=~"\$job", instance=~"\$instance"(?:, )?')

    def queries() -> Iterator[tuple[str, ...]]:
        for panel in panels:
            for target in panel.get("targets", ()):
                query = selector.sub("", target["expr"]).replace("{}", "")
                legend = f"`{target['legendFormat']}`" if target["legendFormat"] else ""
                yield panel["title"], f"`{_cell_code(query)}`", legend, _cell(panel["description"])

    def rules() -> Iterator[tuple[str, ...]]:
        for rule in (rule for group in groups for rule in group["rules"]):
            link = f"[{rule['alert']}](../monitoring.md#{rule['alert'].lower()})"
            yield link, f"`{_cell_code(rule['expr'])}`", rule["for"], rule["labels"]["severity"]

    parts = [
        "# Dashboard and alerts\n",
        "The queries of `docker/grafana/relay.json` and `docker/prometheus/alerts.yml`. "
        "[Monitor](../monitoring.md) shows how to use them. "
        "The dashboard narrows each query down to the chosen relays; `$__rate_interval` is Grafana's.\n",
        "## Dashboard\n",
        _table(("panel", "query", "series", "meaning"), queries()),
        "## Alerts\n",
        _table(("alert", "query", "for", "severity"), rules()),
    ]
    return "\n".join(parts)


def _cell_code(text: str) -> str:
    return text.replace("|", "\\|")


def close_codes() -> str:
    """Return the page of the ways in which a session ends."""

    def rows() -> Iterator[tuple[str, ...]]:
        for close in Close:
            yield str(close.code), _cell(close.reason), f"`{close.label}`", "yes" if close.reconnect else "no"

    text = (
        "[Messages and close codes](../protocol.md#close-codes) says what causes each. "
        "The label is that of `relay_connections_closed_total`.\n"
    )
    return "\n".join(["# Close codes\n", text, _table(("code", "reason", "label", "reconnect"), rows())])


def schemas() -> str:
    """Return the page of the HTTP API's operations and of all messages with their JSON Schemas."""
    api = openapi_document(OPERATIONS, "/api")
    operations = [
        (f"`{method.upper()} {path}`", _cell(operation["summary"]), ", ".join(operation["responses"]))
        for path, methods in api["paths"].items()
        for method, operation in methods.items()
    ]
    parts = [
        "# Schemas\n",
        "Every relay serves these documents: `/api/openapi.json` (OpenAPI 3.1) and `/api/asyncapi.json` (AsyncAPI 3). "
        "`/api/docs` shows them.\n",
        "## Operations of the HTTP API\n",
        _table(("operation", "meaning", "answers"), iter(operations)),
        "## Types of the HTTP API\n",
    ]
    for name, schema in api["components"]["schemas"].items():
        parts += [f"### {name}\n", f"```json\n{json.dumps(schema, indent=2)}\n```\n"]
    parts.append("## Messages\n")
    for name, message in asyncapi_document()["components"]["messages"].items():
        text = _cell(message.get("summary") or message.get("description"))
        parts += [f"### {name}\n", f"{text}\n", f"```json\n{json.dumps(message['payload'], indent=2)}\n```\n"]
    return "\n".join(parts)


_EXPORT = re.compile(r"export (?:type )?\{([^}]*)\} from")
_DECLARATION = (
    r"(/\*\*(?:(?!\*/).)*\*/\n)?^(?:export )?(?:abstract )?"
    r"(?:(class|interface) {name}\b(.*?)^\}}|(type) {name}\b(.*?)(?:;\n|\Z)|(function {name}\b[^\n]*?) \{{\n)"
)
_MEMBER = re.compile(
    r"(?:^  /\*\*((?:(?!\*/).)*)\*/\n)?"
    r"^  (?!readonly #|async #|[#*/}]|private|constructor|static|protected)(\w[^\n]*?)(?: \{)?;?$",
    re.MULTILINE | re.DOTALL,
)


def _comment(text: str | None) -> str:
    lines = re.sub(r"^\s*/\*\*|\*/\s*$", "", text or "").splitlines()
    return " ".join(line.strip().removeprefix("*").strip() for line in lines).strip()


def _described(name: str, source: str) -> Iterator[str]:
    """Yield what the page says about a class, an interface, a type or a function. Raises ValueError if the source lacks it."""
    found = re.search(_DECLARATION.format(name=name), source, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"the sources have no {name} in a form that this page understands")
    comment, is_class, members, _, definition, function = found.groups()
    yield f"{_cell(_comment(comment))}\n"
    if is_class:
        for note, member in _MEMBER.findall(members):
            yield f"- `{member.strip()}`: {_cell(_comment(note))}".removesuffix(": ")
        bases = re.match(r" extends ([\w, ]+) \{", members)
        for base in bases[1].split(", ") if bases and is_class == "interface" else ():
            yield from list(_described(base, source))[1:]
        own = re.match(r"<[^\n]*> extends (\w+)<F, (.*)> \{\n", members)
        # What a class has from one that is not exported is found nowhere else.
        if own and is_class == "class" and f"export class {own[1]}<" not in source:
            for line in list(_described(own[1], source))[1:]:
                yield re.sub(r"\bS\b", own[2], line)
    elif function:
        yield f"```ts\n{function}\n```\n"
    else:
        yield f"```ts\ntype {name}{definition}\n```\n"


def javascript() -> str:
    """Return the page of what the JavaScript package exports: classes, options, types and functions, with their comments."""
    parts = [
        "# JavaScript API\n",
        "What `@trio-relay/client` exports. [Its page](../clients/js.md) shows how to use it.\n",
    ]
    source = "\n".join(path.read_text() for path in sorted(_SOURCES.rglob("*.ts")))
    for names in _EXPORT.findall((_SOURCES / "index.ts").read_text()):
        for name in (word.strip().removeprefix("type ") for word in names.split(",") if word.strip()):
            parts += [f"## {name}\n", *_described(name, source), ""]
    return "\n".join(parts)


#: The pages by their names on the site.
PAGES: dict[str, Callable[[], str]] = {
    "reference/commands.md": commands,
    "reference/metrics.md": metrics,
    "reference/dashboard.md": dashboard,
    "reference/close-codes.md": close_codes,
    "reference/schemas.md": schemas,
    "reference/javascript.md": javascript,
}
