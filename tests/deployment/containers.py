"""Our image and its containers without a container engine.

The Dockerfile's own commands build the image, from what .dockerignore lets through. Of the packages that it would download it
takes those of the environment that runs the tests. A container is a process: where the kernel lets us, in a mount namespace
with the image's /opt, a read-only root and an empty /tmp, as the image's user and without capabilities. Where it does not,
paths below /opt are those of a folder, and the process runs as we do.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Self

from relay.processes import start_child
from tests.deployment.dockerfile import Stage, is_ignored, read_stages
from tests.harness import PATIENCE, ROOT, Server, eventually

DOCKERFILE = ROOT / "docker" / "Dockerfile"
_IGNORE = ROOT / ".dockerignore"

#: $1 has the image's files, $2 the base of Python, $3 the packages; what follows is run.
_NAMESPACE = """
set -e
image=$1 python=$2 packages=$3 writable=$4; shift 4
mount --bind "$image/opt" /opt
mount --bind "$python" /opt/python
mount --bind "$packages" /opt/packages
if [ "$writable" = no ]; then
    mount -t tmpfs -o mode=1777 tmpfs /tmp
    mount -o remount,bind,ro /opt
    mount -o remount,bind,ro /
fi
cd /
exec "$@"
"""


@cache
def has_namespaces() -> bool:
    """We may have mounts of our own."""
    trial = "mount -t tmpfs tmpfs /opt && mount -o remount,bind,ro /"
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", trial]
    return os.getuid() == 0 and Path("/opt").is_dir() and subprocess.run(command, capture_output=True).returncode == 0


class Image:
    """docker/Dockerfile, built below a folder."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.build_stage, self.stage = read_stages(DOCKERFILE)
        for folder in ("opt/python", "opt/packages", "opt/shims"):
            (directory / folder).mkdir(parents=True)
        self._install_shims()
        self._run_stage(self.build_stage, directory)
        for value in self.stage.values("COPY"):
            source, target = shlex.split(value)[-2:]
            if not value.startswith("--from=build"):
                self._copy(source, self.path(target))
        site = next((directory / "opt/relay/lib").glob("python*")) / "site-packages"
        (site / "packages-of-the-tests.pth").write_text(f"{self._packages}\n")

    @property
    def _packages(self) -> str:
        return "/opt/packages" if has_namespaces() else sysconfig.get_path("purelib")

    def path(self, inside: str) -> Path:
        """Where a path below /opt of the image is on this machine."""
        assert inside.startswith("/opt/"), inside
        return self.directory / inside.removeprefix("/")

    def mapped(self, text: str) -> str:
        """A command or a value, for a process that sees the machine's /opt."""
        return text if has_namespaces() else re.sub(r"(?<![\w/])/opt/", f"{self.directory}/opt/", text)

    def _install_shims(self) -> None:
        """The commands that the base image has: python and pip."""
        name = f"python3.{sys.version_info.minor}"
        python = f"/opt/python/bin/{name}" if has_namespaces() else f"{sys.base_prefix}/bin/{name}"
        for command, line in (("python", python), ("pip", f"{sys.executable} -m pip")):
            shim = self.path(f"/opt/shims/{command}")
            shim.write_text(f'#!/bin/sh\nexec {line} "$@"\n')
            shim.chmod(0o755)

    def _run_stage(self, stage: Stage, directory: Path) -> None:
        """COPY and RUN, in their order."""
        work = self.path(stage.last("WORKDIR"))
        work.mkdir(parents=True)
        for word, value in stage.instructions:
            if word == "COPY":
                *sources, target = shlex.split(value)
                for source in sources:
                    self._copy(source, work / target / (Path(source).name if target.endswith("/") else ""))
            elif word == "RUN":
                command = re.sub(r"^(--\S+\s+)+", "", value)
                environ = {
                    "PATH": f"/opt/shims:{os.environ['PATH']}",
                    "HOME": str(directory),
                    "PIP_NO_INDEX": "1",
                    "PIP_NO_DEPS": "1",
                    "PIP_NO_BUILD_ISOLATION": "0",  # which means: without
                    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
                    "PIP_NO_WARN_SCRIPT_LOCATION": "0",
                    "PIP_ROOT_USER_ACTION": "ignore",
                }
                line = f"cd {shlex.quote(stage.last('WORKDIR'))} && {command}"
                run = subprocess.run(
                    self.command(["sh", "-c", line], writable=True),
                    env={name: self.mapped(value) for name, value in environ.items()},
                    capture_output=True,
                    text=True,
                    timeout=120,
                )
                assert run.returncode == 0, run.stdout + run.stderr

    def _copy(self, source: str, target: Path) -> None:
        """From the context, without what is ignored. Raises FileNotFoundError when it is ignored as a whole."""
        origin = ROOT / source
        if is_ignored(source, _IGNORE):
            raise FileNotFoundError(f".dockerignore keeps {source} out of the build")
        if origin.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(origin, target)
            return

        def ignored(folder: str, names: list[str]) -> list[str]:
            relative = Path(folder).relative_to(ROOT)
            return [name for name in names if is_ignored(str(relative / name), _IGNORE)]

        shutil.copytree(origin, target, ignore=ignored)

    def command(self, arguments: list[str], *, user: str = "", writable: bool = False) -> list[str]:
        """What runs a command in a container. `user`: uid:gid; default: ours."""
        if not has_namespaces():
            return [self.mapped(argument) for argument in arguments]
        if user:
            uid, gid = user.split(":")
            drop = ["--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--pdeathsig=KILL"]
            arguments = ["setpriv", f"--reuid={uid}", f"--regid={gid}", *drop, *arguments]
        namespace = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _NAMESPACE, "container"]
        places = [str(self.directory), sys.base_prefix, sysconfig.get_path("purelib")]
        return [*namespace, *places, "yes" if writable else "no", *arguments]

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """ENV of the image and what a container adds, and nothing of ours."""
        path = f"/opt/shims:{os.defpath}:/usr/local/sbin:/usr/sbin:/sbin"
        environ = {name: value.replace("$PATH", path) for name, value in self.stage.environment().items()}
        if sysconfig.get_config_var("Py_ENABLE_SHARED"):
            # A Python that was built for another place looks for its library there.
            environ["LD_LIBRARY_PATH"] = "/opt/python/lib" if has_namespaces() else f"{sys.base_prefix}/lib"
        return {name: self.mapped(value) for name, value in {**environ, **more}.items()}

    def execute(
        self, command: list[str], environ: Mapping[str, str] | None = None, user: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, in a container of its own."""
        return subprocess.run(
            self.command(command, user=user or self.stage.last("USER")),
            env=self.environment({}) if environ is None else environ,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            cwd=self.stage.last("WORKDIR"),
        )


class Container(Server):
    """A process that runs as a container of our image would. `command`: default is the image's CMD."""

    name = "container"

    def __init__(
        self,
        image: Image,
        directory: Path,
        environ: Mapping[str, str],
        command: list[str] | None = None,
        user: str | None = None,
    ) -> None:
        directory.mkdir()
        super().__init__(directory)
        self.image = image
        self.environ = image.environment(environ)
        self.user = user or image.stage.last("USER")
        arguments = image.command(command or image.stage.command(), user=self.user)
        with self.log.open("ab") as log:
            if has_namespaces():
                # As container runtimes do, so that /dev/stdout can be opened.
                os.fchown(log.fileno(), *map(int, self.user.split(":")))
            self._child = start_child(
                arguments,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=image.stage.last("WORKDIR"),
            )

    def is_ready(self) -> bool:
        """It does what it is there for."""
        return True

    def __enter__(self) -> Self:
        """Wait until it is ready."""
        try:
            eventually(self.is_ready)
        except BaseException:
            self.kill()
            print(f"--- log of {self.name}\n{self.logged()[-8000:]}", file=sys.stderr)
            raise
        return self

    def execute(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run a command beside it, as ``docker exec`` and health checks do."""
        return self.image.execute(command, self.environ, self.user)
