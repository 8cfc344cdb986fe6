// Lists the licences of the installed packages: node licences.mjs
//
// The exit status is 1 if one is unknown, or is an (Affero) General Public Licence: see
// scripts/licences.py for the packages of Python.

import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const KNOWN = /^(Apache-2\.0|MIT|BSD-[23]-Clause|ISC)$/;
const here = dirname(fileURLToPath(import.meta.url));
const modules = join(here, 'node_modules');

const folders = readdirSync(modules)
  .filter((name) => !name.startsWith('.'))
  .flatMap((name) =>
    name.startsWith('@') ? readdirSync(join(modules, name)).map((each) => join(name, each)) : [name],
  );
let problems = 0;
for (const folder of folders.sort()) {
  const about = JSON.parse(readFileSync(join(modules, folder, 'package.json'), 'utf8'));
  const licence = typeof about.license === 'string' ? about.license : 'not stated';
  const problem = KNOWN.test(licence) ? '' : 'to examine';
  problems += Number(problem !== '');
  console.log(`${about.name.padEnd(32)} ${about.version.padEnd(10)} ${licence} ${problem}`.trimEnd());
}
console.log(`${folders.length} packages, ${problems} to examine`);
process.exitCode = Number(problems > 0);
