// Build the client as one ES module, which relays serve as /relay-client.js:  node clients/js/bundle.mjs [FILE]
//
// The modules are put one after the other, what is imported first, without their imports from each other. They may use no name twice
// at their top level, no default export and no renamed import; the result is parsed by Node, which fails at a name that is there twice.

import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const FOLDER = dirname(fileURLToPath(import.meta.url));
const ENTRY = "relay-client.js";
const target = process.argv[2] ?? join(FOLDER, "../../relay/server", ENTRY);

const IMPORT = /^import \{[^}]*\} from "\.\/([\w-]+\.js)";\n/gm;

const modules = new Map();

/** Read a module, and before it all that it imports. */
function read(name) {
  if (modules.has(name)) return;
  modules.set(name, null); // a circle of imports ends here
  const source = readFileSync(join(FOLDER, name), "utf8");
  const imported = [...source.matchAll(IMPORT)].map((match) => match[1]);
  imported.forEach(read);
  let text = source.replace(IMPORT, "");
  if (name !== ENTRY) text = text.replace(/^export (?=const|let|class|function|async function)/gm, "");
  if (/^import\b|^export \*|^export default|\bas\b.* from "\.\//m.test(text)) throw new Error(`${name} has an import or export that is not known here`);
  modules.delete(name); // so that it comes after what it imports
  modules.set(name, text.trim());
}

read(ENTRY);
const parts = [...modules].map(([name, text]) => `// ---- ${name}\n\n${text}\n`);
writeFileSync(target, `// Built from clients/js by bundle.mjs: change it there.\n\n${parts.join("\n")}`);
execFileSync(process.execPath, ["--input-type=module", "--check"], { input: readFileSync(target) });
