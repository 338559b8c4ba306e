"""The packages are complete, name what there is, and have the same bytes whenever they are built."""

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

from release.packages import PYTHON_PACKAGES
from release.version import current, mentioned
from tests.harness import ROOT

REPOSITORY = "https://github.com/trio-relay/trio-relay/blob/"
PROJECTS = {folder: tomllib.loads((ROOT / folder / "pyproject.toml").read_text()) for folder in PYTHON_PACKAGES}
WORKFLOW = ROOT / ".github" / "workflows" / "release.yml"


def built(directory: Path, **environ: str) -> dict[str, bytes]:
    """Build the Python packages; the files by their names."""
    command = [
        sys.executable,
        "-m",
        "release",
        "build",
        "--without-npm",
        "--without-sbom",
        "--directory",
        str(directory),
    ]
    run = subprocess.run(command, cwd=ROOT, env=os.environ | environ, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("packages")
    built(directory)
    return directory


@pytest.fixture(scope="module", params=PYTHON_PACKAGES)
def wheel(request: pytest.FixtureRequest, packages: Path) -> Iterator[tuple[str, zipfile.ZipFile]]:
    """Each wheel, and the folder that it is of."""
    name = PROJECTS[request.param]["project"]["name"].replace("-", "_")
    with zipfile.ZipFile(packages / f"{name}-{current()}-py3-none-any.whl") as archive:
        yield request.param, archive


def metadata(archive: zipfile.ZipFile) -> Message:
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(archive.read(name).decode())


def test_a_second_build_has_the_same_bytes(packages: Path, tmp_path: Path) -> None:
    """In another place, at another time of day, by a user with another umask."""
    earlier = {path.name: path.read_bytes() for path in packages.iterdir()}
    mask = os.umask(0o077)
    try:
        later = built(tmp_path / "again", TZ="Asia/Kathmandu", PYTHONHASHSEED="7")
    finally:
        os.umask(mask)
    assert later == earlier
    assert len(later) == 2 * len(PYTHON_PACKAGES) + 1
    summed = {line.split()[1] for line in later["SHA256SUMS"].decode().splitlines()}
    assert summed == set(later) - {"SHA256SUMS"}


def test_a_wheel_has_all_files_of_its_package_and_no_others(wheel: tuple[str, zipfile.ZipFile]) -> None:
    folder, archive = wheel
    (package,) = PROJECTS[folder]["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", package],
        cwd=ROOT / folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.split()
    expected = {name for name in tracked if (ROOT / folder / name).exists()}
    assert {name for name in archive.namelist() if ".dist-info/" not in name} == expected
    assert {f"{package}/__init__.py", f"{package}/py.typed"} <= expected


def test_a_package_page_links_to_files_of_this_version(wheel: tuple[str, zipfile.ZipFile]) -> None:
    folder, archive = wheel
    about = metadata(archive)
    assert about["Version"] == current()
    page = str(about.get_payload())
    targets = re.findall(r"\]\(([^)\s]+)\)", page)
    assert targets
    for target in targets:
        assert re.match(r"https?://|#", target), target
        _, is_ours, path = target.partition(f"{REPOSITORY}v{current()}/")
        assert not is_ours or (ROOT / path.partition("#")[0]).exists(), target
    # Nothing but links differs from the README.
    shown, written = (
        re.sub(r"\]\([^)\s]+\)", "]()", text) for text in (page, (ROOT / folder / "README.md").read_text())
    )
    assert shown.strip() == written.strip()


def test_an_sdist_has_what_a_build_needs_and_no_more(packages: Path) -> None:
    with tarfile.open(packages / f"trio_relay-{current()}.tar.gz") as archive:
        names = {name.split("/")[1] for name in archive.getnames()}
    assert names == {"relay", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "PKG-INFO", ".gitignore"}


def test_the_version_is_the_same_everywhere() -> None:
    assert mentioned() == {name: {current()} for name in mentioned()}
    for project in PROJECTS.values():
        assert "version" in project["project"]["dynamic"]


def test_packages_need_the_same_minor_version_of_each_other() -> None:
    major, minor = map(int, current().split(".")[:2])
    bounds = f">={major}.{minor},<{major}.{minor + 1}"
    ours = {project["project"]["name"] for project in PROJECTS.values()}
    for project in PROJECTS.values():
        extras = project["project"].get("optional-dependencies", {}).values()
        for needed in [*project["project"]["dependencies"], *(each for extra in extras for each in extra)]:
            name, _, wanted = re.fullmatch(r"([\w-]+)(\[[^]]*\])?([^;]*)", needed.partition(";")[0]).groups()  # type: ignore[union-attr]
            if name in ours - {project["project"]["name"]} and wanted:
                assert wanted.strip() == bounds, needed


def test_the_changelog_has_the_form_of_keep_a_changelog() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert versions[0] == "[Unreleased]"
    for version in versions[1:]:
        assert re.fullmatch(r"\[\d+\.\d+\.\d+\S*\] - \d{4}-\d\d-\d\d", version), version
    for version in versions:
        assert f"\n{version.partition(' ')[0]}: https://" in text, version
    kinds = re.findall(r"^### (.*)$", text, re.MULTILINE)
    assert set(kinds) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_workflow_has_the_schema_and_asks_for_no_more_than_it_needs() -> None:
    program = str(Path(sys.executable).parent / "check-jsonschema")
    command = [program, "--builtin-schema", "vendor.github-workflows", str(WORKFLOW)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout
    workflow = yaml.safe_load(WORKFLOW.read_text())
    assert workflow["permissions"] == {}
    # The right to publish is with the two jobs that publish, each behind its environment; they run none of our code.
    publishers = {name for name, job in workflow["jobs"].items() if "id-token" in job["permissions"]}
    assert publishers == {"pypi", "npm"}
    for name in publishers:
        job = workflow["jobs"][name]
        assert job["environment"] == name
        assert not [step for step in job["steps"] if "checkout" in step.get("uses", "")]
    assert json.dumps(workflow).count("secrets.") == 0
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\bmake ([a-z-]+)", WORKFLOW.read_text()):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_workflow_tries_each_python_that_is_named() -> None:
    pythons = yaml.safe_load(WORKFLOW.read_text())["jobs"]["try"]["strategy"]["matrix"]["python"]
    assert f">={pythons[0]}" == PROJECTS["."]["project"]["requires-python"]
