/** Checksums of training states: docs/format.md describes them byte by byte. */

import { byCodePoint, concat, encode, sha256 } from './bytes.ts';
import { ArtifactError, excerpt } from './errors.ts';
import type { StoredTensor, TensorFile } from './tensor_file.ts';

const FAMILY = 'exportloss-state';
const NEWEST = 2; // format 1, of earlier versions, is read too

type About = ReadonlyMap<string, string>;
type Stored = ReadonlyMap<string, StoredTensor>;

/** Add format and checksum to metadata. */
export async function sign(tensors: Stored, about: About): Promise<Map<string, string>> {
  const whole = new Map([...about, ['format', `${FAMILY}/${NEWEST}`]]);
  return whole.set('sha256', await digest(tensors, whole));
}

/**
 * Check a file's format and checksum.
 *
 * @throws ArtifactError if the content is damaged, or written by a later version.
 */
export async function checkDigest(file: TensorFile, source: string): Promise<void> {
  const about = new Map(file.about);
  const format = about.get('format') ?? '';
  const number = Number(new RegExp(`^${FAMILY}/([1-9][0-9]{0,5})$`).exec(format)?.[1] ?? 0);
  if (number === 0) {
    throw new ArtifactError(
      `${source} has format '${excerpt(format)}'; expected a training state, '${FAMILY}/${NEWEST}'`,
      'not-a-state',
    );
  }
  const found = about.get('sha256');
  about.delete('sha256');
  // Later formats keep the checksum of format 2, so that damage is never taken for a later format.
  const isUnsigned = found === undefined && number > NEWEST;
  const compute = number === 1 ? digestOfFormat1 : digest;
  if (!isUnsigned && found !== (await compute(file.tensors, about))) {
    throw new ArtifactError(`${source} is damaged: its content does not match its sha256`, 'damaged');
  }
  if (number > NEWEST) {
    throw new ArtifactError(
      `${source} was written by a newer exportloss (format ${number}; this page reads up to ` +
        `${NEWEST}); use a newer page`,
      'newer',
    );
  }
}

async function digest(tensors: Stored, about: About): Promise<string> {
  const parts: Uint8Array[] = [number(about.size)];
  for (const [key, text] of sorted(about)) parts.push(...prefixed(key), ...prefixed(text));
  parts.push(number(tensors.size));
  for (const [name, { dtype, shape, content }] of sorted(tensors)) {
    parts.push(...prefixed(name), ...prefixed(dtype), number(shape.length), ...shape.map(number), content);
  }
  return sha256(concat(parts));
}

/** The checksum of format 1: over Python's JSON and numpy's names of types. */
async function digestOfFormat1(tensors: Stored, about: About): Promise<string> {
  const texts = sorted(about).map(([key, text]) => `${asciiJson(key)}: ${asciiJson(text)}`);
  const parts: Uint8Array[] = [encode(`{${texts.join(', ')}}`)];
  for (const [name, { dtype, shape, content }] of sorted(tensors)) {
    const sizes = shape.length === 1 ? `${shape[0]},` : shape.join(', ');
    parts.push(encode(`${name} ${dtype === 'F32' ? 'float32' : dtype} (${sizes})`), content);
  }
  return sha256(concat(parts));
}

function sorted<Value>(entries: ReadonlyMap<string, Value>): [string, Value][] {
  return [...entries].sort(([a], [b]) => byCodePoint(a, b));
}

/** Eight bytes, little-endian. */
function number(value: number): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value), true);
  return bytes;
}

function prefixed(text: string): [Uint8Array, Uint8Array] {
  const content = encode(text);
  return [number(content.length), content];
}

/** JSON of a text in ASCII, as Python's `json.dumps` writes it. */
function asciiJson(text: string): string {
  const escaped = (unit: string): string => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`;
  return JSON.stringify(text).replace(/[\u0080-\uffff]/g, escaped);
}
