"""What a release is made of: its version, its packages, its bill of materials. Run `python -m release --help`."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
