"""A CycloneDX bill of materials: every package that an installation of a release has today, with its version and licence."""

import subprocess
import sys
import tempfile
from pathlib import Path

from release.version import current

#: Seconds for each step; installing asks the package index.
_TIMEOUT = 600


def write_sbom(directory: Path) -> Path:
    """Install what `directory` has into an empty environment, and list it. Needs a package index. Returns the file."""
    version = current()
    target = directory / f"trio-relay-{version}.cdx.json"
    with tempfile.TemporaryDirectory(prefix="relay-sbom-") as name:
        environment = Path(name) / "venv"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True, timeout=_TIMEOUT)
        python = environment / "bin" / "python"
        wanted = [f"trio-relay[embedded,grants,otel]=={version}", f"trio-relay-jobs=={version}"]
        pip = [sys.executable, "-m", "pip", "--python", str(python), "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--find-links", str(directory), *wanted], check=True, timeout=_TIMEOUT)
        list_packages = [sys.executable, "-m", "cyclonedx_py", "environment", "--output-reproducible", "--validate"]
        options = ["--spec-version", "1.6", "--output-format", "JSON", "--output-file", str(target)]
        subprocess.run([*list_packages, *options, str(python)], check=True, stderr=subprocess.DEVNULL, timeout=_TIMEOUT)
    return target
