/**
 * Safetensors files: eight bytes with the length of the header; the header, in JSON, with type,
 * shape and offsets per tensor and texts under `__metadata__`; the values.
 */

import { byCodePoint, type Bytes, concat, decode, encode } from './bytes.ts';
import { ArtifactError, excerpt } from './errors.ts';
import { MAX_HEADER_BYTES, MAX_STATE_BYTES, MAX_TENSORS } from './limits.ts';
import { isCount, product } from './numbers.ts';

const LENGTH = 8; // bytes of the header's length; the values begin at a multiple of it
const METADATA = '__metadata__';
const MOST_DIMENSIONS = 32;
const SIZES: ReadonlyMap<string, number> = new Map([
  ...['F64', 'I64', 'U64'].map((type) => [type, 8] as const),
  ...['F32', 'I32', 'U32'].map((type) => [type, 4] as const),
  ...['F16', 'BF16', 'I16', 'U16'].map((type) => [type, 2] as const),
  ...['I8', 'U8', 'BOOL'].map((type) => [type, 1] as const),
]);

/** A tensor in a file: its values, little-endian, in row-major order. */
export interface StoredTensor {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly content: Uint8Array;
}

export interface TensorFile {
  readonly about: ReadonlyMap<string, string>;
  readonly tensors: ReadonlyMap<string, StoredTensor>; // in the file's order
}

/**
 * Parse the content of a file.
 *
 * @param source Name of the file, for messages.
 * @throws ArtifactError if the content is not safetensors.
 */
export function parseTensorFile(content: Uint8Array, source: string): TensorFile {
  try {
    return parse(content);
  } catch (error) {
    const problem = error instanceof Error ? error.message : String(error);
    throw new ArtifactError(
      `${source} is not a readable training state or weights: ${excerpt(problem, 300)}; copy the ` +
        'file again',
      'not-safetensors',
    );
  }
}

/** Return the bytes of a file; tensors and metadata are sorted by name. */
export function formatTensorFile(
  tensors: ReadonlyMap<string, StoredTensor>,
  about: ReadonlyMap<string, string>,
): Bytes {
  const sorted = [...tensors].sort(([a], [b]) => byCodePoint(a, b));
  const texts = [...about].sort(([a], [b]) => byCodePoint(a, b));
  let end = 0;
  const entries = sorted.map(([name, { dtype, shape, content }]) => {
    const start = end;
    end += content.length;
    return `${JSON.stringify(name)}:${JSON.stringify({ dtype, shape, data_offsets: [start, end] })}`;
  });
  const metadata = texts.map(([key, text]) => `${JSON.stringify(key)}:${JSON.stringify(text)}`).join(',');
  const header = `{"${METADATA}":{${metadata}}${entries.map((entry) => `,${entry}`).join('')}}`;
  const unpadded = encode(header);
  const text = concat([unpadded, encode(' '.repeat((LENGTH - (unpadded.length % LENGTH)) % LENGTH))]);
  const length = new Uint8Array(LENGTH);
  new DataView(length.buffer).setBigUint64(0, BigInt(text.length), true);
  return concat([length, text, ...sorted.map(([, { content }]) => content)]);
}

/** Return a tensor's float32 values, which share no memory with the file. */
export function floats(tensor: StoredTensor, name: string): Float32Array {
  if (tensor.dtype !== 'F32') {
    throw new ArtifactError(`${excerpt(name, 200)} is ${tensor.dtype}; expected F32`, 'values');
  }
  return new Float32Array(new Uint8Array(tensor.content).buffer);
}

export function storedFloats(values: Float32Array, shape: readonly number[]): StoredTensor {
  const content = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  return { dtype: 'F32', shape, content };
}

function parse(content: Uint8Array): TensorFile {
  if (content.length < LENGTH) {
    throw new Error(`it is truncated: it has ${content.length} bytes, expected at least ${LENGTH}`);
  }
  if (content.length > MAX_STATE_BYTES) {
    throw new Error(`it has ${content.length} bytes, expected at most ${MAX_STATE_BYTES}`);
  }
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  const length = view.getBigUint64(0, true);
  if (length > MAX_HEADER_BYTES) {
    throw new Error(`its header has ${length} bytes, expected at most ${MAX_HEADER_BYTES}`);
  }
  const start = LENGTH + Number(length);
  if (start > content.length) {
    throw new Error(
      `it is truncated: it has ${content.length} bytes, expected more than the ${start} of its header`,
    );
  }
  const header = parseHeader(decode(content.subarray(LENGTH, start)));
  const about = texts(header[METADATA] ?? {});
  const names = Object.keys(header).filter((name) => name !== METADATA);
  if (names.length > MAX_TENSORS) {
    throw new Error(`it has ${names.length} tensors, expected at most ${MAX_TENSORS}`);
  }
  const values = content.subarray(start);
  const entries = names.map((name) => [name, readEntry(header[name])] as const);
  checkCover(entries, start, values.length);
  const tensors = entries.map(([name, { dtype, shape, from, to }]) => {
    return [name, { dtype, shape, content: values.subarray(from, to) }] as const;
  });
  return { about, tensors: new Map(tensors) };
}

function parseHeader(text: string): Record<string, unknown> {
  const header: unknown = JSON.parse(text);
  if (!isRecord(header)) throw new TypeError('its header is not a dictionary');
  // Readers differ in which of two entries of one name they take.
  const unquoted = text.replace(/"(?:[^"\\]|\\.)*"/gs, '');
  const colons = unquoted.split(':').length - 1;
  if (colons !== countKeys(header)) throw new Error('its header has a name twice');
  // JavaScript does not tell 3.0 from 3.
  if (/[.eE]/.test(unquoted)) throw new Error('a shape or offset in it is not an integer >= 0');
  return header;
}

function countKeys(value: unknown): number {
  if (Array.isArray(value)) return value.reduce<number>((sum, each) => sum + countKeys(each), 0);
  if (!isRecord(value)) return 0;
  return Object.values(value).reduce<number>((sum, each) => sum + 1 + countKeys(each), 0);
}

function texts(metadata: unknown): Map<string, string> {
  if (!isRecord(metadata)) throw new TypeError('its metadata are not texts');
  const about = new Map<string, string>();
  for (const [key, text] of Object.entries(metadata)) {
    if (typeof text !== 'string') throw new TypeError('its metadata are not texts');
    checkText(key);
    checkText(text);
    about.set(key, text);
  }
  return about;
}

interface Entry {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly from: number;
  readonly to: number;
}

function readEntry(entry: unknown): Entry {
  if (!isRecord(entry) || Object.keys(entry).length !== 3) {
    throw new TypeError('a tensor in it is not described by type, shape and offsets');
  }
  const { dtype, shape, data_offsets: offsets } = entry;
  const isCounts = (value: unknown): value is number[] => Array.isArray(value) && value.every(isCount);
  if (!isCounts(shape) || !isCounts(offsets) || offsets.length !== 2) {
    throw new Error('a shape or offset in it is not an integer >= 0');
  }
  const size = typeof dtype === 'string' ? SIZES.get(dtype) : undefined;
  if (size === undefined || shape.length > MOST_DIMENSIONS) {
    throw new Error(`a tensor in it is ${excerpt(String(dtype))}, or has too many dimensions`);
  }
  const [from, to] = offsets as [number, number];
  const isHuge = !isCount(product(shape.map((side) => side || 1)));
  if (isHuge || product(shape) * size !== to - from) {
    throw new Error(`a tensor of shape (${excerpt(shape.join(', '))}) has ${to - from} bytes`);
  }
  return { dtype: dtype as string, shape, from, to };
}

/** Check that the tensors cover the values without gap. */
function checkCover(entries: readonly (readonly [string, Entry])[], start: number, size: number): void {
  let end = 0;
  for (const [name, { from, to }] of [...entries].sort(([, a], [, b]) => a.from - b.from || a.to - b.to)) {
    checkText(name);
    if (from !== end) {
      throw new Error(`'${excerpt(name)}' does not begin where the one before it ends`);
    }
    end = to;
  }
  if (end !== size) {
    const cut = end > size ? 'it is truncated: ' : '';
    throw new Error(`${cut}it has ${start + size} bytes, expected ${start + end} by its header`);
  }
}

function checkText(text: string): void {
  if (/\p{Surrogate}/u.test(text)) throw new Error('a text in it has half a surrogate pair');
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
