/** `manifest.json` of an artifacts folder: read and checked (docs/format.md). */

import { decode, encode, sha256 } from './bytes.ts';
import { ArtifactError, excerpt } from './errors.ts';
import type { FlatLayout, StateLayout } from './flat_layout.ts';
import * as limits from './limits.ts';
import { CRITERIA, LOSS_KEYS, type LossConfig, lossConfig } from './loss_config.ts';
import { flag, integer, isPrintable, list, number, record, text, texts } from './manifest_values.ts';
import { product } from './numbers.ts';

export const MANIFEST = 'manifest.json';
const NEWEST = 2; // format exportloss/2; manifests of exportloss/1 may have no checksum
const LONGEST_NAME = 200; // characters of a class name

// Allowed values of the fields that hold one of several words, and what a missing field means.
const WORDS = {
  kind: ['ort-training', 'train-step', 'loss'],
  optimizer: ['sgd', 'adam', 'adamw', 'rmsprop'],
  precision: ['float32', 'float16', 'bfloat16'],
  head: ['dense', 'sparse'],
  loss_layout: ['permuted', 'head-output', 'head-input'],
  provider: ['any', 'cpu', 'openvino', 'gpu'],
} as const;
const GROUPS = ['weights', 'norms', 'biases'] as const;

export interface FileEntry {
  readonly sha256: string;
  readonly size: number; // bytes
}

export interface BatchNormStatistics {
  readonly mean: string;
  readonly var: string;
  readonly count: number;
  readonly momentum: number;
}

export interface Manifest {
  readonly kind: string;
  readonly model: string;
  readonly names: readonly string[];
  readonly anchors: readonly (readonly (readonly [number, number])[])[]; // (nl, na, 2), pixels
  readonly strides: readonly number[];
  readonly imageSize: readonly [number, number]; // height, width
  readonly batchSize: number;
  readonly maxTargets: number;
  readonly tiers: readonly number[];
  readonly loss: LossConfig;
  readonly gradients: boolean;
  readonly lossLayout: string;
  readonly provider: string;
  readonly optimizer: string | null;
  readonly ema: boolean;
  readonly precision: string;
  readonly groups: Readonly<Record<(typeof GROUPS)[number], readonly string[]>>;
  readonly statistics: readonly BatchNormStatistics[];
  readonly head: string;
  readonly layout: StateLayout | null;
  readonly opset: number;
  readonly versions: Readonly<Record<string, unknown>>;
  readonly files: ReadonlyMap<string, FileEntry>;
}

type Values = Readonly<Record<string, unknown>>;

/**
 * Read a manifest.
 *
 * @throws ArtifactError if it is damaged, or written by a later version.
 */
export async function readManifest(content: Uint8Array): Promise<Manifest> {
  if (content.length > limits.MAX_MANIFEST_BYTES) {
    throw new ArtifactError(
      `${MANIFEST} has ${content.length} bytes; expected at most ${limits.MAX_MANIFEST_BYTES}`,
      'too-large',
    );
  }
  const { values, hasChecksum } = await readValues(content);
  try {
    if (hasChecksum) refuseNewer(values);
    return fromValues(values);
  } catch (error) {
    if (error instanceof ArtifactError) throw error;
    const problem = error instanceof Error ? error.message : String(error);
    throw new ArtifactError(`${MANIFEST} is damaged: ${excerpt(problem, 200)}; export again`, 'damaged');
  }
}

/** Return the unchecked values, and whether the manifest has a checksum, which it then matches. */
async function readValues(content: Uint8Array): Promise<{ values: Values; hasChecksum: boolean }> {
  let written: string;
  let parsed: unknown;
  try {
    written = decode(content);
    parsed = JSON.parse(written);
  } catch (error) {
    throw new ArtifactError(
      `${MANIFEST} is not readable: ${excerpt((error as Error).message, 200)}; export again`,
      'unreadable',
    );
  }
  const isObject = typeof parsed === 'object' && parsed !== null && !Array.isArray(parsed);
  const values: Values = isObject ? (parsed as Values) : {};
  const { format, sha256: digest } = values;
  const match = typeof format === 'string' ? /^exportloss\/([1-9][0-9]{0,5})$/.exec(format) : null;
  const found = Number(match?.[1] ?? 0);
  const hasChecksum = found === NEWEST || (found > 0 && 'sha256' in values);
  const isWhole = typeof digest === 'string' && (await sha256(encode(written.replace(digest, '')))) === digest;
  if (hasChecksum && !isWhole) {
    throw new ArtifactError(
      `${MANIFEST} is damaged or was edited: its content does not match its sha256; copy the folder ` +
        'again, or export again',
      'damaged',
    );
  }
  if (!match) {
    throw new ArtifactError(
      `${MANIFEST} has format ${excerpt(JSON.stringify(format) ?? 'none')}; this page opens ` +
        `'exportloss/1' and 'exportloss/${NEWEST}'`,
      'not-an-artifact',
    );
  }
  if (found > NEWEST) throw newer(`format ${found}`, `up to ${NEWEST}`);
  return { values, hasChecksum };
}

/** Refuse unknown words and keys, in a manifest that matches its checksum. */
function refuseNewer(values: Values): void {
  const loss = record(values['loss'], 'loss');
  const groups = record(values['groups'], 'groups');
  for (const [key, known] of Object.entries(WORDS)) refuseWord(key, values[key], known);
  refuseWord('criterion', loss['criterion'], CRITERIA);
  for (const [key, own, known] of [['loss', loss, LOSS_KEYS], ['groups', groups, GROUPS]] as const) {
    const unknown = Object.keys(own).find((name) => !(known as readonly string[]).includes(name));
    if (unknown !== undefined) throw newer(`${key} key '${excerpt(unknown)}'`, known.join(', '));
  }
}

function refuseWord(key: string, said: unknown, known: readonly string[]): void {
  if (typeof said === 'string' && !known.includes(said)) {
    throw newer(`${key} '${excerpt(said)}'`, known.join(', '));
  }
}

function newer(found: string, known: string): ArtifactError {
  return new ArtifactError(
    `${MANIFEST} was written by a newer exportloss (${found}; this page reads ${known}); use a newer ` +
      'page, or export again',
    'newer',
  );
}

function fromValues(values: Values): Manifest {
  const groups = record(values['groups'], 'groups');
  const manifest: Manifest = {
    kind: word(values, 'kind'),
    model: text(values['model'], 'model'),
    names: texts(values['names'], 'names').map(className),
    anchors: list(values['anchors'], 'anchors').map((level) => list(level, 'anchors').map(anchor)),
    strides: list(values['strides'], 'strides').map((stride) => pixels(stride, 'strides')),
    imageSize: imageSize(values['image_size']),
    batchSize: integer(values['batch_size'], 'batch_size', 1, limits.MAX_ROWS),
    maxTargets: integer(values['max_targets'], 'max_targets', 1, limits.MAX_ROWS),
    tiers: list(given(values, 'tiers', []), 'tiers').map((rows) => integer(rows, 'tiers')),
    loss: lossConfig(record(values['loss'], 'loss')),
    gradients: flag(given(values, 'gradients', false), 'gradients'),
    lossLayout: word(values, 'loss_layout', 'permuted'),
    provider: word(values, 'provider', 'any'),
    optimizer: values['optimizer'] === null ? null : word(values, 'optimizer'),
    ema: flag(given(values, 'ema', false), 'ema'),
    precision: word(values, 'precision', 'float32'),
    groups: {
      weights: texts(given(groups, 'weights', []), 'groups'),
      norms: texts(given(groups, 'norms', []), 'groups'),
      biases: texts(given(groups, 'biases', []), 'groups'),
    },
    statistics: list(values['statistics'], 'statistics').map(readStatistics),
    head: word(values, 'head', 'dense'),
    layout: readLayout(values['layout']),
    opset: integer(values['opset'], 'opset'),
    versions: record(values['versions'], 'versions'),
    files: readFiles(record(values['files'], 'files')),
  };
  integer(manifest.names.length, 'number of classes', 1, limits.MAX_CLASSES);
  checkTiers(manifest);
  if (!manifest.strides.length || manifest.strides.length !== manifest.anchors.length) {
    throw new RangeError(
      `${manifest.strides.length} strides for anchors of ${manifest.anchors.length} levels`,
    );
  }
  return manifest;
}

/** Return a value, or what its absence means; null is a value, and of no known type. */
function given(values: Values, key: string, missing: unknown): unknown {
  return values[key] === undefined ? missing : values[key];
}

function word(values: Values, key: keyof typeof WORDS, missing?: string): string {
  const said = given(values, key, missing);
  if (!(WORDS[key] as readonly unknown[]).includes(said)) {
    throw new TypeError(`${key} is ${excerpt(JSON.stringify(said) ?? 'missing')}, expected a known word`);
  }
  return said as string;
}

function className(name: string): string {
  if (!isPrintable(name, LONGEST_NAME)) {
    throw new RangeError(`a class has the name ${excerpt(JSON.stringify(name))}`);
  }
  return name;
}

function anchor(pair: unknown): readonly [number, number] {
  const sides = list(pair, 'anchors').map((side) => pixels(side, 'anchors'));
  if (sides.length !== 2) throw new RangeError(`an anchor has ${sides.length} sides`);
  return [sides[0]!, sides[1]!];
}

function pixels(value: unknown, what: string): number {
  const size = number(value, what);
  if (!Number.isFinite(size) || size <= 0) throw new RangeError(`${what} has ${size} pixels`);
  return size;
}

function imageSize(value: unknown): readonly [number, number] {
  const sides = list(value, 'image_size').map((side) =>
    integer(side, 'image_size', 1, limits.MAX_IMAGE_SIDE),
  );
  if (sides.length !== 2) throw new RangeError(`image_size has ${sides.length} sides, expected 2`);
  return [sides[0]!, sides[1]!];
}

function checkTiers({ tiers, maxTargets }: Manifest): void {
  const steps = [0, ...tiers, maxTargets];
  const ascends = steps.every((rows, index) => index === 0 || rows > steps[index - 1]!);
  if (!ascends || tiers.length >= limits.MAX_ARTIFACT_FILES) {
    throw new RangeError(`tiers are ${excerpt(tiers.join(', '))}, expected to ascend below ${maxTargets}`);
  }
}

function readStatistics(entry: unknown): BatchNormStatistics {
  const values = record(entry, 'statistics');
  return {
    mean: text(values['mean'], 'mean'),
    var: text(values['var'], 'var'),
    count: integer(values['count'], 'count'),
    momentum: number(values['momentum'], 'momentum'),
  };
}

function readLayout(value: unknown): StateLayout | null {
  // Python's reader takes any empty value for "no layout".
  if (value === null || (Array.isArray(value) && !value.length)) return null;
  const layout = record(value, 'layout');
  if (!Object.keys(layout).length) return null;
  return {
    parameters: readFlatLayout(layout['parameters']),
    statistics: readFlatLayout(layout['statistics']),
    optimizerState: texts(layout['memories'], 'memories'),
  };
}

/** Read places of tensors, which leave no gap. */
export function readFlatLayout(value: unknown): FlatLayout {
  const entries = list(value, 'layout');
  integer(entries.length, 'number of tensors', 0, limits.MAX_TENSORS);
  const names = new Set<string>();
  let end = 0;
  return entries.map((entry) => {
    const values = record(entry, 'a tensor of the layout');
    const name = text(values['name'], 'name');
    const shape = list(values['shape'], 'shape').map((side) => integer(side, name, 1));
    if (names.has(name)) throw new RangeError(`'${excerpt(name)}' has two places`);
    names.add(name);
    const offset = integer(values['offset'], name, end, end);
    end = integer(end + product(shape), name);
    return { name, shape, offset };
  });
}

function readFiles(values: Values): ReadonlyMap<string, FileEntry> {
  return new Map(
    Object.entries(values).map(([name, value]) => {
      const entry = record(value, 'files');
      return [
        text(name, 'files'),
        { sha256: text(entry['sha256'], 'sha256'), size: integer(entry['size'], 'size') },
      ] as const;
    }),
  );
}
