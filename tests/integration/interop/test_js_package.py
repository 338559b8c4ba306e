"""The package that clients/js is for npm: complete, importable and typed in the ways that projects have; and its compiler."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.harness import PATIENCE, ROOT
from tests.integration.interop.node_packages import CLIENT, install_node_packages, install_packed_client

NODE = ROOT / "tests" / "integration" / "interop" / "node"


@pytest.fixture(scope="session")
def client_tools() -> None:
    """What builds and tests clients/js, as its package-lock.json has it."""
    install_node_packages(CLIENT)


@pytest.fixture(scope="session")
def node_packages() -> None:
    """`ws` and TypeScript, as package-lock.json has them."""
    install_node_packages(NODE)


@pytest.mark.usefixtures("client_tools")
def test_the_sources_of_the_page_pass_the_compiler() -> None:
    checked = subprocess.run(
        ["npm", "run", "--silent", "check"], cwd=CLIENT, capture_output=True, text=True, timeout=120
    )
    assert checked.returncode == 0, checked.stdout


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has installed the package as npm would publish it."""
    project = tmp_path_factory.mktemp("project")
    install_packed_client(project)
    return project


def test_the_package_is_complete(package: Path) -> None:
    home = package / "node_modules" / "@trio-relay" / "client"
    manifest = json.loads((home / "package.json").read_text())
    assert {path.name for path in home.iterdir()} == {"LICENSE", "README.md", "dist", "package.json"}
    for entry in manifest["exports"].values():
        for path in [entry] if isinstance(entry, str) else entry.values():
            assert (home / path).is_file()
    for script in home.glob("dist/**/*.js"):
        for imported in re.findall(r'^(?:import|export) .*from "(\..*?)"', script.read_text(), re.MULTILINE):
            assert (script.parent / imported).is_file(), f"{script}: {imported}"
    assert "dependencies" not in manifest
    links = re.findall(r"\]\((.*?)\)", (home / "README.md").read_text())
    assert all(link.startswith("https://") for link in links), "what is relative here leads nowhere on npm"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("main.mjs", 'import { RelayClient, RelayError } from "@trio-relay/client";'),
        ("main.cjs", 'const { RelayClient, RelayError } = require("@trio-relay/client");'),
        (
            "element.mjs",
            'import { RelayClient, RelayError } from "@trio-relay/client/element";',
        ),  # on a server, nothing is defined
        (
            "svelte.mjs",
            'import { RelayClient, RelayError } from "@trio-relay/client"; import "@trio-relay/client/svelte";',
        ),
    ],
)
def test_it_can_be_imported_and_required(name: str, code: str, package: Path) -> None:
    program = package / name
    program.write_text(
        f"{code}\nnew RelayClient('ws://127.0.0.1:9', {{ WebSocket: class {{ close() {{}} }} }}).close();\nRelayError;"
    )
    ended = subprocess.run(["node", str(program)], capture_output=True, text=True, timeout=PATIENCE)
    assert (ended.returncode, ended.stderr) == (0, "")


TYPED = """
import { RelayClient, RelayError, type TaskFields, type TaskState, type Update } from "@trio-relay/client";
import { taskStore } from "@trio-relay/client/svelte";

interface Picture extends TaskFields {
  image_url: string;
}

const relay = new RelayClient<Picture>("wss://relay.example/ws/tasks", { onError: (error: RelayError) => error.code });
relay.task("t").onUpdate(({ state, data }) => {
  const url: string | undefined = state.image_url;
  const status: "pending" | "in_progress" | "completed" | "failed" | "cancelled" | undefined = data.status;
  // @ts-expect-error: a field is a string
  const wrong: number | undefined = state.image_url;
  return [url, status, wrong];
});
relay.task<{ rows: number }>("u").onUpdate((update: Update<{ rows: number }>) => update.state.rows?.toFixed());
// @ts-expect-error: there is no such field
relay.general<{ minutes: number }>().onUpdate(({ data }) => data.hours);
const state: TaskState<Picture> = relay.task("t").state;
relay.family("p").subscribe(({ data, children }) => [data.image_url, children.get("c")?.image_url]);
// @ts-expect-error: a child's field is a string
relay.family("p").onUpdate(({ taskId, state }) => [taskId, state.image_url?.toFixed()]);
taskStore<Picture>(relay, "t").subscribe(({ data, connection }) => [data.image_url, connection === "live", state.stalled]);
// @ts-expect-error: there is no such filter
relay.tasks({ colour: "red" });
const other = new RelayClient("/ws/tasks", { token: async () => "token" });
other.task("t").subscribe(({ data }) => [data.progress?.toFixed(), data.anything]);
"""


@pytest.mark.usefixtures("node_packages")
@pytest.mark.parametrize(
    ("names", "options"),
    [
        (["esm.mts", "commonjs.cts"], ["--module", "nodenext"]),
        (["node16.mts"], ["--module", "node16"]),
        (["bundled.ts"], ["--module", "esnext", "--moduleResolution", "bundler"]),
    ],
    ids=["nodenext", "node16", "bundler"],
)
def test_its_types(names: list[str], options: list[str], package: Path) -> None:
    for name in names:
        (package / name).write_text(TYPED)
    compiler = NODE / "node_modules" / "typescript" / "bin" / "tsc"
    common = ["--noEmit", "--strict", "--target", "es2022", "--lib", "es2022,dom,dom.iterable"]
    checked = subprocess.run(
        ["node", str(compiler), *common, *options, *names], cwd=package, capture_output=True, text=True, timeout=120
    )
    assert checked.returncode == 0, checked.stdout
