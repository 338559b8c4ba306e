// Writes relay-client.cjs and relay-client.d.cts, for programs that cannot import ES modules. `npm pack` runs it.
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const path = (name) => fileURLToPath(new URL(name, import.meta.url));

/** The code of a module without its imports and exports: all are put into one file. */
function inlined(name) {
  const code = readFileSync(path(name), "utf8");
  const stripped = code.replace(/^import .*;\n/gm, "").replace(/^export \{.*\};\n/gm, "").replace(/^export /gm, "");
  if (/^(import|export)\b/m.test(stripped)) throw new Error(`${name} has an import or export that is not understood`);
  return stripped;
}

const code = `"use strict";\n${inlined("subscriptions.js")}\n${inlined("relay-client.js")}\nmodule.exports = { RelayClient, RelayError };\n`;
writeFileSync(path("relay-client.cjs"), code);
copyFileSync(path("relay-client.d.ts"), path("relay-client.d.cts"));
