"""Reads docker/Dockerfile and .dockerignore: as much of their syntax as ours use. hadolint checks the rest."""

import json
import re
import shlex
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath


@dataclass
class Stage:
    """From one FROM to the next."""

    base: str
    name: str = ""
    instructions: list[tuple[str, str]] = field(default_factory=list)

    def values(self, word: str) -> list[str]:
        """What follows each instruction of a kind."""
        return [value for instruction, value in self.instructions if instruction == word]

    def last(self, word: str) -> str:
        """The one that counts. Raises IndexError when there is none."""
        return self.values(word)[-1]

    def environment(self) -> dict[str, str]:
        """All ENV, as written."""
        pairs = (pair for value in self.values("ENV") for pair in shlex.split(value))
        return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}

    def command(self) -> list[str]:
        """CMD in its exec form."""
        return [str(word) for word in json.loads(self.last("CMD"))]

    def healthcheck(self) -> list[str]:
        """The command of HEALTHCHECK, in its exec form."""
        return [str(word) for word in json.loads(self.last("HEALTHCHECK").partition("CMD ")[2])]


def read_stages(path: Path) -> list[Stage]:
    """The stages of a Dockerfile."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    stages: list[Stage] = []
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        word, _, value = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = value.partition(" AS ")
            stages.append(Stage(base, name))
        elif word:
            stages[-1].instructions.append((word, value.strip()))
    return stages


def is_ignored(name: str, ignore_file: Path) -> bool:
    """Whether a path, relative to the context, is kept out of the build. As in Docker the last pattern that matches the path
    or a folder that it is in decides."""
    path = PurePosixPath(name)
    candidates = [str(path), *(str(parent) for parent in path.parents if parent.name)]
    ignored = False
    for line in ignore_file.read_text().splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        negated = pattern.startswith("!")
        if any(_matches(candidate, pattern.removeprefix("!")) for candidate in candidates):
            ignored = not negated
    return ignored


def _matches(path: str, pattern: str) -> bool:
    """A star stands for no slash, two at the beginning for any folders."""
    if pattern.startswith("**/"):
        pattern = pattern.removeprefix("**/")
        parts = path.split("/")
        return any(_matches("/".join(parts[first:]), pattern) for first in range(len(parts)))
    return path.count("/") == pattern.count("/") and fnmatchcase(path, pattern)
