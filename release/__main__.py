"""Build the packages of a release, or give the next release its version."""

import argparse
import shutil
from pathlib import Path

from release import ROOT
from release.chart import render
from release.packages import build_npm, build_python, set_source_date, write_checksums
from release.sbom import write_sbom
from release.version import write


def _build(directory: Path, *, npm: bool, sbom: bool) -> None:
    set_source_date()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    build_python(directory)
    if npm:
        build_npm(directory)
    if sbom:
        write_sbom(directory)
    write_checksums(directory)
    for path in sorted(directory.iterdir()):
        print(f"{path.stat().st_size:>9,}  {path.name}")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m release", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="wheels, sdists, the npm tarball, a bill of materials and checksums")
    build.add_argument("--directory", type=Path, default=ROOT / "dist", help="is emptied first; default: dist/")
    build.add_argument("--without-npm", action="store_true", help="for where there is no npm")
    build.add_argument("--without-sbom", action="store_true", help="for where there is no package index")
    version = commands.add_parser("version", help="write another version wherever it is named")
    version.add_argument("version", help="such as 0.2.0")
    commands.add_parser("chart", help="render the Helm chart with each of its value sets (needs helm)")
    options = parser.parse_args()
    if options.command == "build":
        _build(options.directory.resolve(), npm=not options.without_npm, sbom=not options.without_sbom)
    elif options.command == "chart":
        render()
    else:
        write(options.version)


main()
