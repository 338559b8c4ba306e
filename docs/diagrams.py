"""Draw the diagrams of docs/diagrams from their text, as SVG: `make diagrams`. The site shows the files, and loads no script.

It needs Node and Chromium. Each file says which text it was drawn from, and a test compares the two.
"""

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

DIAGRAMS = Path(__file__).parent / "diagrams"

#: mermaid's command line; newer versions draw the same text differently.
PACKAGE = "@mermaid-js/mermaid-cli@12.2.0"

#: Seconds for the installation and for one diagram.
_TIMEOUT = 900

#: Texts are texts rather than HTML within the picture, which some viewers do not show.
_CONFIG = {
    "theme": "neutral",
    "fontFamily": "sans-serif",
    "htmlLabels": False,
    "flowchart": {"htmlLabels": False, "wrappingWidth": 300},
}


def digest(source: Path) -> str:
    """Return what a diagram's file says of the text that it was drawn from."""
    return hashlib.sha256(source.read_bytes()).hexdigest()


def draw() -> None:
    """Draw all diagrams. Raises SystemExit if Chromium is missing, and CalledProcessError if one cannot be drawn."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("Chromium is missing. Install the package chromium.")
    with tempfile.TemporaryDirectory(prefix="relay-diagrams-") as name:
        directory = Path(name)
        install = ["npm", "install", "--prefix", name, "--silent", "--no-audit", "--no-fund", PACKAGE, "puppeteer"]
        environ = {**os.environ, "PUPPETEER_SKIP_DOWNLOAD": "1"}
        subprocess.run(install, check=True, timeout=_TIMEOUT, env=environ)
        config, puppeteer = directory / "config.json", directory / "puppeteer.json"
        config.write_text(json.dumps(_CONFIG))
        puppeteer.write_text(json.dumps({"executablePath": browser, "args": ["--no-sandbox"]}))
        for source in sorted(DIAGRAMS.glob("*.mmd")):
            drawn = directory / "drawn.svg"
            mmdc = [str(directory / "node_modules" / ".bin" / "mmdc"), "--quiet", "--backgroundColor", "white"]
            files = ["--input", str(source), "--output", str(drawn), "--svgId", f"diagram-{source.stem}"]
            options = ["--configFile", str(config), "--puppeteerConfigFile", str(puppeteer)]
            subprocess.run([*mmdc, *files, *options], check=True, timeout=_TIMEOUT)
            picture = drawn.read_text().strip()
            source.with_suffix(".svg").write_text(f"{picture}\n<!-- {source.name} {digest(source)} -->\n")


if __name__ == "__main__":
    draw()
