/** The files of a portable step compared with what its manifest implies (docs/format.md). */

import type { Bytes } from './bytes.ts';
import { ArtifactError, excerpt } from './errors.ts';
import type { FlatLayout } from './flat_layout.ts';
import { sizeOf } from './flat_layout.ts';
import { MANIFEST, type Manifest } from './manifest.ts';
import { described, type OnnxFile, parseOnnx } from './onnx_file.ts';
import { parseTensorFile } from './tensor_file.ts';

export const STATE = 'state.safetensors';
export const TRAIN_STEP = 'train_step.onnx';
export const EVAL_STEP = 'eval_step.onnx';
export const INFERENCE = 'inference.onnx';
const APPLY_STEP = 'apply_step.onnx'; // not used by the page

const OPTIMIZER_STATE: Readonly<Record<string, readonly string[]>> = {
  sgd: ['momentum'],
  adam: ['exp_avg', 'exp_avg_sq'],
  adamw: ['exp_avg', 'exp_avg_sq'],
  rmsprop: ['square_avg', 'momentum'],
};

type Types = Readonly<Record<string, string>>; // type and shape by name; empty for any
type Shapes = ReadonlyMap<string, readonly number[]>;

/**
 * Check layout, graphs, opset and state.
 *
 * @throws ArtifactError if they are not what the manifest implies; the message names the file.
 */
export function checkContents(manifest: Manifest, files: ReadonlyMap<string, Bytes>): void {
  checkLayout(manifest);
  const signatures = signaturesOf(manifest);
  let newest = 0;
  for (const [name, content] of files) {
    if (!name.endsWith('.onnx')) continue;
    const graph = readGraph(name, content);
    const signature = signatures.get(name);
    if (signature) checkGraph(name, graph, signature);
    if (signature || name === APPLY_STEP) newest = Math.max(newest, graph.opset);
  }
  if (newest !== manifest.opset) {
    throw new ArtifactError(
      `the graphs have opset ${newest}, but ${MANIFEST} says ${manifest.opset}; export again`,
      'damaged',
    );
  }
  checkState(manifest, files.get(STATE)!);
}

function checkLayout(manifest: Manifest): void {
  const { parameters, statistics, optimizerState } = manifest.layout!;
  const { weights, norms, biases } = manifest.groups;
  checkNames(parameters, [...weights, ...norms, ...biases]);
  checkNames(statistics, manifest.statistics.flatMap((norm) => [norm.mean, norm.var]));
  if (!parameters.length) throw damagedLayout('it has no parameters');
  const kept = OPTIMIZER_STATE[manifest.optimizer ?? ''] ?? [];
  if (JSON.stringify(optimizerState) !== JSON.stringify(kept)) {
    throw damagedLayout(`${manifest.optimizer} does not keep ${excerpt(optimizerState.join(', '))}`);
  }
}

function checkNames(layout: FlatLayout, trained: readonly string[]): void {
  const names = new Set(trained);
  if (layout.length !== trained.length || !layout.every(({ name }) => names.delete(name))) {
    throw damagedLayout(`it has ${layout.length} tensors, which are not the ${trained.length} trained ones`);
  }
}

function damagedLayout(problem: string): ArtifactError {
  return new ArtifactError(`${MANIFEST} has a damaged layout: ${problem}; export again`, 'damaged');
}

interface Signature {
  readonly inputs: Types;
  readonly outputs: Types; // the graph may have more
}

function signaturesOf(manifest: Manifest): ReadonlyMap<string, Signature> {
  const { batchSize, imageSize, maxTargets, strides, layout, ema } = manifest;
  const float = (...shape: number[]): string => described('float32', shape);
  const levels = { balance: float(strides.length) };
  const batch = {
    images: described('uint8', [batchSize, 3, ...imageSize]),
    targets: float(maxTargets, 6),
    ...levels,
  };
  const settings = {
    learning_rates: float(3),
    momentum: float(),
    weight_decay: float(),
    max_norm: float(),
    update: described('bool', []),
    ...(ema && { ema_decay: float() }),
  };
  const size = float(sizeOf(layout!.parameters));
  const { statistics } = layout!;
  const detector: Types = {
    parameters: size,
    ...(statistics.length && { statistics: float(sizeOf(statistics)) }),
  };
  const renamed = (prefix: string, types: Types): Types =>
    Object.fromEntries(Object.entries(types).map(([name, type]) => [prefix + name, type]));
  const kept = Object.fromEntries(layout!.optimizerState.map((name) => [`optimizer_${name}`, size]));
  const vectors: Types = {
    ...detector,
    ...(ema && renamed('ema_', detector)),
    ...kept,
    gradients: size,
    updates: float(),
  };
  const values = { loss: float(), items: float(3) };
  const next = renamed('new_', { ...vectors, ...levels });
  return new Map([
    [TRAIN_STEP, { inputs: { ...batch, ...settings, ...vectors }, outputs: { ...values, ...next } }],
    [EVAL_STEP, { inputs: { ...batch, ...detector }, outputs: values }],
    [INFERENCE, { inputs: { images: '', ...detector }, outputs: { output0: '' } }],
  ]);
}

function readGraph(name: string, content: Bytes): OnnxFile {
  try {
    return parseOnnx(content);
  } catch (error) {
    const problem = error instanceof Error ? error.message : String(error);
    throw new ArtifactError(`${name} is not a usable graph: ${excerpt(problem, 200)}; export again`);
  }
}

function checkGraph(name: string, graph: OnnxFile, signature: Signature): void {
  for (const what of ['inputs', 'outputs'] as const) {
    for (const [value, wanted] of Object.entries(signature[what])) {
      const found = graph[what].get(value);
      if (found === undefined || (wanted && found !== wanted)) {
        throw new ArtifactError(
          `${name}: of its ${what}, '${value}' is ${excerpt(found ?? 'missing')}, expected ` +
            `${wanted || 'there'}; export again`,
        );
      }
    }
  }
  const unknown = [...graph.inputs.keys()].find((input) => !Object.hasOwn(signature.inputs, input));
  if (unknown !== undefined) {
    throw new ArtifactError(
      `${name} has an input '${excerpt(unknown)}', which this page does not provide; export again, or use a newer page`,
    );
  }
}

function checkState(manifest: Manifest, content: Bytes): void {
  const { tensors } = parseTensorFile(content, STATE);
  for (const [name, shape] of shapesOf(manifest)) {
    const found = tensors.get(name)?.shape;
    if (String(found) !== String(shape)) {
      throw new ArtifactError(
        `${STATE}: '${excerpt(name)}' has shape (${found?.join(', ') ?? 'none'}), expected ` +
          `(${shape.join(', ')}); export again`,
      );
    }
  }
}

function shapesOf({ layout, ema, strides }: Manifest): Shapes {
  const { parameters, statistics, optimizerState } = layout!;
  const named = (prefix: string, flat: FlatLayout): (readonly [string, readonly number[]])[] =>
    flat.map(({ name, shape }) => [prefix + name, shape] as const);
  const trained = [...parameters, ...statistics];
  return new Map([
    ['balance', [strides.length]] as const,
    ...named('', trained),
    ...(ema ? named('ema/', trained) : []),
    ...optimizerState.flatMap((kept) => named(`optimizer/${kept}/`, parameters)),
  ]);
}
