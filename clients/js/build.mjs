// Builds what is made of src/ and page/:
//
//   node build.mjs              the files that relays serve, into relay/server/static/
//   node build.mjs DIRECTORY    the same, into another directory
//   node build.mjs --package    dist/, which npm publishes
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, rmSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const HERE = dirname(fileURLToPath(import.meta.url));
const argument = process.argv[2];

/** One file of modules, for browsers of the last years. */
const bundle = (entry, outfile) =>
  build({
    entryPoints: [join(HERE, entry)],
    outfile,
    bundle: true,
    minify: true,
    format: "esm",
    target: ["es2022"],
    charset: "utf8",
    legalComments: "none",
    logLevel: "warning",
  });

const bundles = (directory) =>
  Promise.all([
    bundle("src/index.ts", join(directory, "relay-client.js")),
    bundle("src/element/index.ts", join(directory, "relay.js")),
    bundle("src/sharing/shared_worker.ts", join(directory, "relay-worker.js")),
  ]);

if (argument === "--package") {
  const dist = join(HERE, "dist");
  rmSync(dist, { recursive: true, force: true });
  execFileSync(process.execPath, [join(HERE, "node_modules/typescript/bin/tsc"), "-p", HERE], { stdio: "inherit" });
  await bundles(join(dist, "bundles"));
} else {
  const target = argument === undefined ? join(HERE, "../../relay/server/static") : resolve(argument);
  mkdirSync(target, { recursive: true });
  await bundles(target);
  await bundle("page/page.ts", join(target, "relay-page.js"));
  await bundle("page/page.css", join(target, "relay-page.css"));
  for (const name of ["index.html", "relay-icon.svg"]) copyFileSync(join(HERE, "page", name), join(target, name));
}
