/** The graphs of an artifact as ONNX Runtime opens them, and the names of their inputs. */

import type * as Ort from 'onnxruntime-web';

import { ArtifactError, excerpt } from './errors.ts';
import { type Artifact, TRAIN_STEP } from './folder.ts';
import type { Manifest } from './manifest.ts';

export type OrtModule = typeof Ort;
export type Provider = 'wasm' | 'webgpu';

/** ONNX Runtime, and what of it computes. */
export interface Engine {
  readonly ort: OrtModule;
  readonly provider: Provider;
}

export const NEW = 'new_';
export const OPTIMIZER = 'optimizer_';
export const EMA = 'ema_';

const SMALL = new Set(['updates', 'balance']); // read by the page, so never kept on a GPU

const BATCH = ['images', 'targets'];
const SETTINGS = ['learning_rates', 'momentum', 'weight_decay', 'max_norm', 'update'];

/** Names of the state's vectors, as inputs of the step. */
export function stateNames(manifest: Manifest): string[] {
  const layout = manifest.layout!;
  const flat = ['parameters', ...(layout.statistics.length ? ['statistics'] : [])];
  const average = manifest.ema ? flat.map((name) => EMA + name) : [];
  const optimizer = layout.optimizerState.map((name) => OPTIMIZER + name);
  return [...flat, ...average, 'balance', 'updates', 'gradients', ...optimizer];
}

/**
 * Open the training step, and check that its inputs and outputs are those of the manifest.
 *
 * @throws ArtifactError if it cannot be run, or is another graph.
 */
export async function openStep(artifact: Artifact, engine: Engine): Promise<Ort.InferenceSession> {
  const { manifest } = artifact;
  const state = stateNames(manifest);
  const step = await openGraph(artifact, TRAIN_STEP, engine, state);
  const wanted = [...BATCH, ...SETTINGS, ...state, ...(manifest.ema ? ['ema_decay'] : [])];
  const missing = wanted.find((name) => !step.inputNames.includes(name));
  const unknown = step.inputNames.find((name) => !wanted.includes(name));
  const output = state.find((name) => !step.outputNames.includes(NEW + name));
  if (missing ?? unknown ?? output) {
    await step.release();
    const problem = unknown
      ? `has an input '${excerpt(unknown)}', which this page does not provide`
      : `lacks '${missing ?? NEW + output}'`;
    throw new ArtifactError(`${TRAIN_STEP} ${problem}; export again, or use a newer page`);
  }
  return step;
}

/**
 * Open a graph.
 *
 * @param state Vectors whose successors stay on the device.
 * @throws ArtifactError if it cannot be run.
 */
export async function openGraph(
  artifact: Artifact,
  name: string,
  { ort, provider }: Engine,
  state: readonly string[] = [],
): Promise<Ort.InferenceSession> {
  const large = state.filter((vector) => !SMALL.has(vector)).map((vector) => NEW + vector);
  const places = Object.fromEntries(large.map((output) => [output, 'gpu-buffer' as const]));
  try {
    return await ort.InferenceSession.create(artifact.files.get(name)!, {
      executionProviders: [provider],
      ...(provider === 'webgpu' && large.length && { preferredOutputLocation: places }),
    });
  } catch (error) {
    const said = error instanceof Error ? error.message : String(error);
    throw new ArtifactError(`${name} cannot be run: ${excerpt(said, 300)}; export again`);
  }
}

/** Read the loss and its terms from a run's outputs. */
export async function lossOf(
  outputs: Ort.InferenceSession.OnnxValueMapType,
): Promise<{ loss: number; items: readonly [number, number, number] }> {
  const [loss, items] = [outputs['loss'], outputs['items']];
  if (!loss || !items) throw new ArtifactError('the graph has no loss; export again');
  const [box, objectness, category] = (await items.getData()) as Float32Array;
  return {
    loss: ((await loss.getData()) as Float32Array)[0]!,
    items: [box!, objectness!, category!],
  };
}
