"""The dashboard of docker/grafana and the alerts of docker/prometheus, as data."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from tests.harness import ROOT

DASHBOARD = ROOT / "docker" / "grafana" / "relay.json"
ALERTS = ROOT / "docker" / "prometheus" / "alerts.yml"
SCRAPING = ROOT / "docker" / "prometheus" / "prometheus.yml"


class Query(NamedTuple):
    """A query of the dashboard.

    Attributes:
        panel: The title of the panel.
        unit: The panel's unit.
        legend: What names a series.
        expression: The query, with the dashboard's variables.
    """

    panel: str
    unit: str
    legend: str
    expression: str

    @property
    def runnable(self) -> str:
        """The query with the variables as they are at first, and a range that holds for every scrape interval."""
        return self.expression.replace("$job", ".*").replace("$instance", ".*").replace("$__rate_interval", "5m")


def dashboard() -> dict[str, Any]:
    """The dashboard."""
    content: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return content


def panels() -> list[dict[str, Any]]:
    """Its panels, without the rows that group them."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> Iterator[Query]:
    """All queries of the dashboard."""
    for panel in panels():
        unit = panel["fieldConfig"]["defaults"]["unit"]
        for target in panel["targets"]:
            yield Query(panel["title"], unit, target["legendFormat"], target["expr"])


def alerts() -> list[dict[str, Any]]:
    """The alerting rules."""
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules
