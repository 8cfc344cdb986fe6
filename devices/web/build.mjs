// Builds the page: node build.mjs [FOLDER]
//
// The folder (build/web/site of the repository by default) then holds everything that a server needs.

import { cp, mkdir, rm } from 'node:fs/promises';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

import { build } from 'esbuild';

const here = dirname(fileURLToPath(import.meta.url));
const site = resolve(process.argv[2] ?? join(here, '../../build/web/site'));

// ONNX Runtime as it was published: one build for the processor, one with WebGPU as well.
const ENGINE = [
  'ort.wasm.min.mjs',
  'ort-wasm-simd-threaded.mjs',
  'ort-wasm-simd-threaded.wasm',
  'ort.webgpu.min.mjs',
  'ort-wasm-simd-threaded.asyncify.mjs',
  'ort-wasm-simd-threaded.asyncify.wasm',
];

await rm(site, { recursive: true, force: true });
await mkdir(join(site, 'ort'), { recursive: true });
await build({
  absWorkingDir: here,
  entryPoints: { page: 'src/page/main.ts', worker: 'src/worker/worker.ts' },
  outdir: site,
  bundle: true,
  format: 'esm',
  target: 'es2022',
  charset: 'utf8',
  minify: true,
  sourcemap: true,
  logLevel: 'warning',
});
await cp(join(here, 'public'), site, { recursive: true });
for (const name of ENGINE) {
  await cp(join(here, 'node_modules/onnxruntime-web/dist', name), join(site, 'ort', name));
}
console.log(site);
