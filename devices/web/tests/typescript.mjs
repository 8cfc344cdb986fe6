// Lets node run TypeScript: node --import ./tests/typescript.mjs FILE.ts

import { readFile } from 'node:fs/promises';
import { register } from 'node:module';
import { fileURLToPath } from 'node:url';

import { transform } from 'esbuild';

if (!process.env.EXPORTLOSS_HOOKS) {
  process.env.EXPORTLOSS_HOOKS = '1'; // the hooks run in a thread that loads this file as well
  register(import.meta.url);
  delete process.env.EXPORTLOSS_HOOKS;
}

export async function load(url, context, nextLoad) {
  if (!url.endsWith('.ts')) return nextLoad(url, context);
  const source = await readFile(fileURLToPath(url), 'utf8');
  const { code } = await transform(source, {
    loader: 'ts',
    target: 'es2022',
    sourcemap: 'inline',
    sourcefile: fileURLToPath(url),
  });
  return { format: 'module', source: code, shortCircuit: true };
}
