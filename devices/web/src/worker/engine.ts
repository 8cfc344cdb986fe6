/** ONNX Runtime in this worker, from files beside the page. */

import type { Engine, OrtModule, Provider } from '../runtime/graphs.ts';

/** Load ONNX Runtime; only one of its two builds per worker. */
export async function loadEngine(provider: Provider, threads: number): Promise<Engine> {
  const folder = new URL('ort/', import.meta.url).href;
  const build = provider === 'webgpu' ? 'ort.webgpu.min.mjs' : 'ort.wasm.min.mjs';
  const ort = (await import(/* @vite-ignore */ folder + build)) as OrtModule;
  ort.env.wasm.wasmPaths = folder;
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = 'error';
  return { ort, provider };
}

/** Threads that may be used: more than one needs memory that they share. */
export function usableThreads(): number {
  return globalThis.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 8) : 1;
}
