"""MkDocs hooks: add the Markdown pages outside of ``docs/`` and a reference page for each public module to the site."""

import importlib.util
import posixpath
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent

#: Pages of the repository that are outside of ``docs/``, and their names on the site.
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "threats.md",
    "clients/python/README.md": "clients/python.md",
    "clients/jobs/README.md": "clients/jobs.md",
    "clients/js/README.md": "clients/js.md",
    "clients/wire/README.md": "clients/wire.md",
}

#: Packages in the API reference, and the folders that hold them.
PACKAGES = {
    "relay_client": "clients/python",
    "relay_jobs": "clients/jobs",
    "relay_wire": "clients/wire",
    "relay": "",
}

_DEFINITION = re.compile(r"^(?:class|(?:async )?def|from|[A-Z]\w* ?[:=])", re.MULTILINE)

_LINK = re.compile(r"(?P<bang>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)#\s:]+)(?P<anchor>#[^)\s]*)?\)")


def _modules(package: str, folder: str) -> list[str]:
    """Return the dotted names of the package's public modules, without those that only hold a docstring."""
    source = ROOT / folder
    found = []
    for path in sorted((source / package).rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        is_public = "examples" not in parts and not any(part.startswith("_") for part in parts)
        if is_public and _DEFINITION.search(path.read_text()):
            found.append(".".join(parts))
    return found


def _reference_page(module: str) -> str:
    return f"reference/{module.replace('.', '/')}.md"


def _navigation(package: str, folder: str) -> list[Any]:
    """Return the navigation of a package: its own modules, then a section for each subpackage."""
    modules: list[Any] = []
    sections: dict[str, list[Any]] = {}
    for name in _modules(package, folder):
        inside = name.split(".")[1:]
        is_section = inside and (ROOT / folder / package / inside[0]).is_dir()
        group = sections.setdefault(inside[0], []) if is_section else modules
        group.append({".".join(inside[1:] if len(inside) > 1 else inside) or package: _reference_page(name)})
    return modules + [{section: pages} for section, pages in sections.items()]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Append the API reference to the group "Reference" of the navigation."""
    packages = [(package, folder) for package, folder in PACKAGES.items() if (ROOT / folder / package).is_dir()]
    assert config.nav is not None
    reference = next(group["Reference"] for group in config.nav if "Reference" in group)
    reference.append({"Python API": [{package: _navigation(package, folder)} for package, folder in packages]})
    return config


def _generated_pages() -> ModuleType:
    """Return the module of the pages that come from the code. MkDocs loads this file by its path, outside of any package."""
    spec = importlib.util.spec_from_file_location("generated", Path(__file__).with_name("generated.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in ``docs/``."""
    for source, name in OUTSIDE.items():
        if (ROOT / source).exists():
            files.append(File.generated(config, name, content=(ROOT / source).read_text()))
    for name, page in _generated_pages().PAGES.items():
        files.append(File.generated(config, name, content=page()))
    for package, folder in PACKAGES.items():
        for module in _modules(package, folder):
            files.append(File.generated(config, _reference_page(module), content=f"::: {module}\n"))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001 - MkDocs passes it by name
    """Point relative links to where their targets are on the site; links to files that it does not have become text."""
    here = page.file.src_uri
    source = next((outside for outside, name in OUTSIDE.items() if name == here), f"docs/{here}")

    def replace(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link["target"]))
        name = OUTSIDE.get(target, target.removeprefix("docs/"))
        if files.get_file_from_path(name) is None or (name == target and not target.startswith("docs/")):
            return f"`{target}`" if "`" not in link["text"] else link["text"]
        relative = posixpath.relpath(name, posixpath.dirname(here) or ".")
        return f"{link['bang']}[{link['text']}]({relative}{link['anchor'] or ''})"

    return _LINK.sub(replace, markdown)
