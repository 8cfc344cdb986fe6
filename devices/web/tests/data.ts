/** What Python made for the tests: see tests/web/make_artifacts.py. */

import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

import type { Bytes } from '../src/runtime/bytes.ts';
import type { FileSource } from '../src/runtime/folder.ts';
import { parseTensorFile, type StoredTensor } from '../src/runtime/tensor_file.ts';

export const ROOT = join(dirname(fileURLToPath(import.meta.url)), '../../..');
export const DATA = join(ROOT, 'build/web/data');

export function bytesOf(...path: string[]): Bytes {
  return new Uint8Array(readFileSync(join(DATA, ...path)));
}

export function jsonOf<T>(...path: string[]): T {
  return JSON.parse(readFileSync(join(DATA, ...path), 'utf8')) as T;
}

export function tensorsOf(...path: string[]): ReadonlyMap<string, StoredTensor> {
  return parseTensorFile(bytesOf(...path), path.join('/')).tensors;
}

/** The values of a tensor in its own type. */
export function valuesOf(tensor: StoredTensor): Float32Array | Uint8Array {
  const own = new Uint8Array(tensor.content);
  return tensor.dtype === 'F32' ? new Float32Array(own.buffer) : own;
}

/** A folder on disk, some files of which may be replaced; null stands for a missing file. */
export function folderOf(name: string, replaced: Record<string, Bytes | null> = {}): FileSource {
  return {
    read: async (file) => {
      if (file in replaced) return replaced[file]!;
      try {
        return bytesOf(name, file);
      } catch {
        return null;
      }
    },
  };
}

export function assertClose(got: ArrayLike<number>, expected: ArrayLike<number>, relative: number): void {
  if (got.length !== expected.length) throw new Error(`${got.length} values, expected ${expected.length}`);
  for (let index = 0; index < expected.length; index++) {
    const [a, b] = [got[index]!, expected[index]!];
    if (!(Math.abs(a - b) <= relative * Math.max(Math.abs(b), 1e-12))) {
      throw new Error(`value ${index} is ${a}, expected ${b} within ${relative}`);
    }
  }
}
