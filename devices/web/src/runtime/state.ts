/** The state of a training: everything that a step changes, in a file that Python takes too. */

import { type Bytes } from './bytes.ts';
import { ArtifactError, ConfigError, excerpt } from './errors.ts';
import type { Tensor, Tensors } from './flat_layout.ts';
import { MAX_UPDATES } from './limits.ts';
import type { Manifest } from './manifest.ts';
import { isCount } from './numbers.ts';
import { checkDigest, sign } from './state_digest.ts';
import {
  floats,
  formatTensorFile,
  parseTensorFile,
  type StoredTensor,
  storedFloats,
  type TensorFile,
} from './tensor_file.ts';

const OPTIMIZER = 'optimizer/'; // optimizer/<what>/<parameter>
const EMA = 'ema/'; // ema/<parameter or statistic>
const BALANCE = 'balance';
const DESCRIPTION = ['names', 'anchors', 'strides'] as const; // in the metadata as JSON
const SQUARES = new Set(['exp_avg_sq', 'square_avg']); // optimizer state that is never negative

export interface TrainState {
  readonly model: Tensors; // parameters and statistics, frozen ones included
  readonly optimizer: ReadonlyMap<string, Tensors>;
  readonly balance: Tensor;
  readonly updates: number;
  readonly skipped: number;
  readonly ema: Tensors; // moving average; empty if none is kept
}

/**
 * Read a state.
 *
 * @param source Name of the file, for messages.
 * @param manifest Manifest whose classes, anchors and strides the state must have; null for any.
 * @throws ArtifactError if the content is damaged or not a training state.
 * @throws ConfigError if it is of other classes or anchors.
 */
export async function readState(
  content: Uint8Array,
  source: string,
  manifest: Manifest | null = null,
): Promise<TrainState> {
  const file = parseTensorFile(content, source);
  await checkDigest(file, source);
  if (manifest) checkDescription(file, source, manifest);
  const state = fromTensors(file, source);
  checkValues(state, source);
  return state;
}

/** Return the content of a state's file. */
export async function formatState(state: TrainState, manifest: Manifest): Promise<Bytes> {
  const tensors = new Map<string, StoredTensor>();
  const put = (prefix: string, entries: Tensors): void => {
    for (const [name, { data, shape }] of entries) tensors.set(prefix + name, storedFloats(data, shape));
  };
  put('', state.model);
  for (const [kept, entries] of state.optimizer) put(`${OPTIMIZER}${kept}/`, entries);
  put(EMA, state.ema);
  put('', new Map([[BALANCE, state.balance]]));
  const about = new Map([
    ['updates', String(state.updates)],
    ['skipped', String(state.skipped)],
    ['model', manifest.model],
    ...DESCRIPTION.map((key) => [key, JSON.stringify(manifest[key])] as const),
  ]);
  return formatTensorFile(tensors, await sign(tensors, about));
}

/**
 * Check that a state has the tensors of another one, of the same shapes, and no others.
 *
 * A moving average is ignored if the session keeps none.
 */
export function checkSameModel(state: TrainState, own: TrainState, source: string): void {
  const mine = parts(own);
  const theirs = parts(state);
  for (const [what, tensors] of mine) {
    const found = theirs.get(what) ?? new Map<string, Tensor>();
    for (const [name, { shape }] of tensors) {
      const other = found.get(name);
      if (!other) {
        throw new ArtifactError(
          `${source} is of another model or kind of training: it lacks ${what} tensor '${name}'`,
        );
      }
      if (String(other.shape) !== String(shape)) {
        throw new ArtifactError(
          `${source} is of another model: ${name} has shape (${other.shape.join(', ')}), expected ` +
            `(${shape.join(', ')})`,
        );
      }
    }
    const unknown = tensors.size ? [...found.keys()].find((name) => !tensors.has(name)) : undefined;
    if (unknown !== undefined) {
      throw new ArtifactError(
        `${source} is of another model or kind of training: it has ${what} tensor ` +
          `'${excerpt(unknown)}', unknown here`,
      );
    }
  }
  const other = [...theirs.keys()].find((what) => !mine.has(what));
  if (other !== undefined) {
    throw new ArtifactError(`${source} is of another kind of training: it holds ${excerpt(other)}`);
  }
}

function parts(state: TrainState): Map<string, Tensors> {
  return new Map([
    ['model', state.model],
    ...state.optimizer,
    ['moving average (EMA)', state.ema],
    ['objectness', new Map([[BALANCE, state.balance]])],
  ]);
}

function fromTensors(file: TensorFile, source: string): TrainState {
  const model = new Map<string, Tensor>();
  const optimizer = new Map<string, Map<string, Tensor>>();
  const ema = new Map<string, Tensor>();
  let balance: Tensor | null = null;
  for (const [name, stored] of file.tensors) {
    const tensor = { shape: stored.shape, data: floats(stored, `${source}: ${name}`) };
    if (name === BALANCE) balance = tensor;
    else if (name.startsWith(EMA)) ema.set(name.slice(EMA.length), tensor);
    else if (name.startsWith(OPTIMIZER)) {
      const [kept = '', ...rest] = name.slice(OPTIMIZER.length).split('/');
      if (!rest.length) throw incomplete(source, `'${excerpt(name)}' is of no parameter`);
      const entries = optimizer.get(kept) ?? new Map<string, Tensor>();
      optimizer.set(kept, entries.set(rest.join('/'), tensor));
    } else model.set(name, tensor);
  }
  if (!balance) throw incomplete(source, `it has no ${BALANCE}`);
  return {
    model,
    optimizer,
    balance,
    updates: count(file.about.get('updates'), 'updates', source),
    skipped: count(file.about.get('skipped') ?? '0', 'skipped', source),
    ema,
  };
}

function count(text: string | undefined, what: string, source: string): number {
  if (!/^(0|[1-9][0-9]{0,9})$/.test(text ?? '')) {
    throw incomplete(source, `${what} is ${excerpt(String(text))}, expected up to ten decimal digits`);
  }
  return Number(text);
}

function incomplete(source: string, problem: string): ArtifactError {
  return new ArtifactError(`${source} is not a complete training state: ${problem}`, 'incomplete');
}

function checkDescription(file: TensorFile, source: string, manifest: Manifest): void {
  for (const key of DESCRIPTION) {
    const text = file.about.get(key);
    if (text === undefined) continue; // states of 0.1
    let found: unknown;
    try {
      found = JSON.parse(text);
    } catch {
      throw new ArtifactError(`${source} is damaged: its ${key} are not JSON`, 'damaged');
    }
    const [theirs, mine] = [JSON.stringify(found), JSON.stringify(manifest[key])];
    if (theirs !== mine) {
      throw new ConfigError(
        `${source} has ${key} ${excerpt(theirs)}, but the artifacts have ${excerpt(mine)}; use the ` +
          'artifacts that it was trained with',
      );
    }
  }
}

/** Check that every value is finite, and that means of squares are not negative. */
export function checkValues(state: TrainState, source: string): void {
  for (const [what, count] of [['updates', state.updates], ['skipped', state.skipped]] as const) {
    if (!isCount(count) || count >= MAX_UPDATES) {
      throw new ArtifactError(`${source} has ${what} ${count}; expected an integer below 2^31`, 'values');
    }
  }
  for (const [what, tensors] of parts(state)) {
    for (const [name, { data }] of tensors) {
      const isSquare = name.endsWith('.running_var') || SQUARES.has(what);
      for (const value of data) {
        if (!Number.isFinite(value) || (isSquare && value < 0)) {
          const kind = Number.isFinite(value) ? 'negative' : 'not finite';
          throw new ArtifactError(
            `${source}: ${what} tensor '${excerpt(name)}' holds ${value}, ${kind}`,
            'values',
          );
        }
      }
    }
  }
}
