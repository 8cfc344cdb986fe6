/** `manifest.json` of an artifacts folder: read and checked. */

import { decode, encode, sha256 } from './bytes.ts';
import { ArtifactError, excerpt } from './errors.ts';
import type { FlatLayout, StateLayout } from './flat_layout.ts';
import * as limits from './limits.ts';
import { isCount, product } from './numbers.ts';

export const MANIFEST = 'manifest.json';
const NEWEST = 2; // format exportloss/2; manifests of exportloss/1 have no checksum
const LONGEST_NAME = 200; // characters of a class name
const AGAIN = 'copy the folder again, or export again';

export interface FileEntry {
  readonly sha256: string;
  readonly size: number; // bytes
}

/** The parts of a manifest that a training with the portable step needs. */
export interface Manifest {
  readonly kind: string;
  readonly model: string;
  readonly names: readonly string[];
  readonly anchors: readonly (readonly (readonly [number, number])[])[]; // (nl, na, 2), pixels
  readonly strides: readonly number[];
  readonly imageSize: readonly [number, number]; // height, width
  readonly batchSize: number;
  readonly maxTargets: number;
  readonly optimizer: string | null;
  readonly ema: boolean;
  readonly precision: string;
  readonly layout: StateLayout | null;
  readonly files: ReadonlyMap<string, FileEntry>;
}

/**
 * Read a manifest.
 *
 * @throws ArtifactError if it is damaged, or written by a later version.
 */
export async function readManifest(content: Uint8Array): Promise<Manifest> {
  if (content.length > limits.MAX_MANIFEST_BYTES) {
    throw new ArtifactError(
      `${MANIFEST} has ${content.length} bytes; expected at most ${limits.MAX_MANIFEST_BYTES}`,
    );
  }
  let text: string;
  let values: Record<string, unknown>;
  try {
    text = decode(content);
    values = record(JSON.parse(text), 'the content');
  } catch (error) {
    throw new ArtifactError(`${MANIFEST} is not readable: ${messageOf(error)}; export again`);
  }
  const number = formatNumber(values['format']);
  if (number === NEWEST || (number !== null && 'sha256' in values)) {
    const digest = String(values['sha256']);
    if ((await sha256(encode(text.replace(digest, '')))) !== digest) {
      throw new ArtifactError(
        `${MANIFEST} is damaged or was edited: its content does not match its sha256; ${AGAIN}`,
      );
    }
  }
  if (number === null || number > NEWEST) {
    throw new ArtifactError(
      `${MANIFEST} has format ${excerpt(JSON.stringify(values['format']) ?? 'none')}; this version ` +
        `opens 'exportloss/1' and 'exportloss/${NEWEST}': use a newer page, or export again`,
    );
  }
  try {
    return fromValues(values);
  } catch (error) {
    throw new ArtifactError(`${MANIFEST} is damaged: ${messageOf(error)}; export again`);
  }
}

function formatNumber(found: unknown): number | null {
  const match = typeof found === 'string' ? /^exportloss\/([1-9]\d{0,5})$/.exec(found) : null;
  return match ? Number(match[1]) : null;
}

function fromValues(values: Record<string, unknown>): Manifest {
  const manifest: Manifest = {
    kind: string(values['kind'], 'kind'),
    model: string(values['model'], 'model'),
    names: list(values['names'], 'names').map((name) => className(name)),
    anchors: list(values['anchors'], 'anchors').map((level) =>
      list(level, 'anchors').map((pair) => {
        const [width, height] = list(pair, 'anchors');
        return [pixels(width), pixels(height)] as const;
      }),
    ),
    strides: list(values['strides'], 'strides').map(pixels),
    imageSize: pair(values['image_size']),
    batchSize: within(values['batch_size'], 'batch_size', limits.MAX_ROWS),
    maxTargets: within(values['max_targets'], 'max_targets', limits.MAX_ROWS),
    optimizer: values['optimizer'] === null ? null : string(values['optimizer'], 'optimizer'),
    ema: Boolean(values['ema'] ?? false),
    precision: string(values['precision'] ?? 'float32', 'precision'),
    layout: readLayout(values['layout']),
    files: readFiles(record(values['files'], 'files')),
  };
  within(manifest.names.length, 'number of classes', limits.MAX_CLASSES);
  if (!manifest.strides.length || manifest.strides.length !== manifest.anchors.length) {
    throw new Error(`${manifest.strides.length} strides for anchors of ${manifest.anchors.length} levels`);
  }
  return manifest;
}

function readLayout(value: unknown): StateLayout | null {
  const layout = record(value, 'layout');
  if (!Object.keys(layout).length) return null;
  return {
    parameters: readFlat(layout['parameters']),
    statistics: readFlat(layout['statistics']),
    optimizerState: list(layout['memories'], 'memories').map((name) => string(name, 'memories')),
  };
}

function readFlat(value: unknown): FlatLayout {
  const entries = list(value, 'layout');
  if (entries.length > limits.MAX_TENSORS) {
    throw new Error(`the layout has ${entries.length} tensors, expected at most ${limits.MAX_TENSORS}`);
  }
  const names = new Set<string>();
  let end = 0;
  return entries.map((entry) => {
    const { name, shape, offset } = record(entry, 'a tensor of the layout');
    const place = { name: string(name, 'name'), shape: list(shape, 'shape') as number[], offset: end };
    if (names.has(place.name)) throw new Error(`'${excerpt(place.name)}' has two places`);
    names.add(place.name);
    if (!place.shape.every((side) => isCount(side) && side > 0)) {
      throw new Error(`'${excerpt(place.name)}' has shape (${excerpt(place.shape.join(', '))})`);
    }
    if (offset !== end) throw new Error(`'${excerpt(place.name)}' begins at ${offset}, expected ${end}`);
    end += product(place.shape);
    if (!Number.isSafeInteger(end)) throw new Error(`'${excerpt(place.name)}' is too large`);
    return place;
  });
}

function readFiles(value: Record<string, unknown>): ReadonlyMap<string, FileEntry> {
  const names = Object.keys(value);
  if (names.length > limits.MAX_ARTIFACT_FILES) {
    throw new Error(`it names ${names.length} files, expected at most ${limits.MAX_ARTIFACT_FILES}`);
  }
  return new Map(
    names.map((name) => {
      if (!/^[^/\\\p{C}]{1,255}$/u.test(name) || name === '..') {
        throw new Error(`it names ${excerpt(JSON.stringify(name))}, outside the folder`);
      }
      const entry = record(value[name], name);
      const most = name.endsWith('.safetensors') ? limits.MAX_STATE_BYTES : limits.MAX_MODEL_BYTES;
      const size = entry['size'];
      if (!isCount(size) || size > most) {
        throw new Error(`${name} has ${String(size)} bytes, expected at most ${most}`);
      }
      return [name, { sha256: string(entry['sha256'], 'sha256'), size }] as const;
    }),
  );
}

function className(value: unknown): string {
  const name = string(value, 'names');
  if (name.length > LONGEST_NAME || /[\p{C}\p{Zl}\p{Zp}]/u.test(name)) {
    throw new Error(`a class has the name ${excerpt(JSON.stringify(name))}`);
  }
  return name;
}

function pixels(value: unknown): number {
  if (typeof value !== 'number' || !Number.isFinite(value) || value <= 0) {
    throw new Error('an anchor or stride is not a finite number of pixels above 0');
  }
  return value;
}

function pair(value: unknown): readonly [number, number] {
  const sides = list(value, 'image_size').map((side) => within(side, 'image_size', limits.MAX_IMAGE_SIDE));
  if (sides.length !== 2) throw new Error(`image_size has ${sides.length} sides, expected 2`);
  return [sides[0]!, sides[1]!];
}

function within(value: unknown, name: string, most: number): number {
  if (!isCount(value) || value < 1 || value > most) {
    throw new Error(`${name} is ${excerpt(String(value))}, expected 1 to ${most}`);
  }
  return value;
}

function string(value: unknown, name: string): string {
  if (typeof value !== 'string') throw new Error(`${name} is ${excerpt(String(value))}, expected a text`);
  return value;
}

function list(value: unknown, name: string): unknown[] {
  if (!Array.isArray(value)) throw new Error(`${name} is ${excerpt(String(value))}, expected a list`);
  return value;
}

function record(value: unknown, name: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new Error(`${name} is ${excerpt(String(value))}, expected an object`);
  }
  return value as Record<string, unknown>;
}

function messageOf(error: unknown): string {
  return excerpt(error instanceof Error ? error.message : String(error), 200);
}
