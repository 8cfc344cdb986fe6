/**
 * Comparison of a device with ONNX Runtime's WebAssembly build, before the device is relied on.
 *
 * Some engines return finite, plausible but wrong numbers without an error. Only a comparison on the
 * device itself shows it.
 */

import { DeviceError } from './errors.ts';
import type { Tensors } from './flat_layout.ts';
import type { Manifest } from './manifest.ts';
import { random } from './random.ts';
import type { StepResult, TrainSession } from './session.ts';
import type { TrainState } from './state.ts';
import type { TargetRow } from './targets.ts';

// The bounds of Python's runtime. Engines sum in different orders: relative differences of 1e-6 of
// the loss and 1e-4 of all gradients were measured. Wrong engines differed by 1e-3 and 0.1.
const LOSS = 1e-5;
const GRADIENTS = 1e-3;
const UPDATE = 5e-2;
const SETTINGS = {
  lr: [1e-3, 1e-3, 1e-3],
  momentum: 0.937,
  weightDecay: 0,
  maxNorm: Infinity,
  update: true,
} as const;

/** A relative difference and its bound. */
export interface Difference {
  readonly name: string;
  readonly value: number;
  readonly bound: number;
}

/**
 * Compare one step from a session's state, which is restored afterwards.
 *
 * @param session Session on the device.
 * @param reference Session of the same artifact on the processor; its state is changed.
 * @returns The differences, all within their bounds.
 * @throws DeviceError if a difference is above its bound, or NaN.
 */
export async function checkTraining(
  session: Pick<TrainSession, 'state' | 'loadState' | 'step' | 'manifest'>,
  reference: Pick<TrainSession, 'state' | 'loadState' | 'step'>,
  device: string,
): Promise<readonly Difference[]> {
  const start = await session.state();
  reference.loadState(start, 'the state');
  const { images, rows } = makeBatch(session.manifest);
  const got = await session.step(images, rows, SETTINGS);
  const expected = await reference.step(images, rows, SETTINGS);
  const differences = [
    ...ofResults(got, expected),
    ...ofStates(session.manifest, start, await session.state(), await reference.state()),
  ];
  const broken = differences.filter(({ value, bound }) => !(value <= bound));
  if (broken.length) {
    const figures = broken.map(
      ({ name, value, bound }) => `${name} ${value.toExponential(1)} off (at most ${bound})`,
    );
    throw new DeviceError(
      `${device} does not compute a training step as the processor does: ${figures.join(', ')}, ` +
        'relative; its results were not used. Train on the processor instead',
    );
  }
  session.loadState(start, 'the state');
  return differences;
}

function ofResults(got: StepResult, expected: StepResult): Difference[] {
  return [
    { name: 'loss', value: Math.abs(got.loss - expected.loss) / Math.abs(expected.loss), bound: LOSS },
    { name: 'loss terms', value: relative([[got.items, expected.items]]), bound: LOSS },
    { name: 'skipped', value: Number(got.skipped !== expected.skipped), bound: 0 },
  ];
}

function ofStates(
  manifest: Manifest,
  start: TrainState,
  got: TrainState,
  expected: TrainState,
): Difference[] {
  const layout = manifest.layout!;
  const pairs = (names: Iterable<string>, some: Tensors, others: Tensors): Pair[] =>
    Array.from(names, (name) => [some.get(name)!.data, others.get(name)!.data]);
  const change = (state: TrainState, name: string): Float64Array => {
    const before = start.model.get(name)!.data;
    return Float64Array.from(state.model.get(name)!.data, (value, index) => value - before[index]!);
  };
  const statistics = layout.statistics.map(({ name }) => name);
  const parameters = layout.parameters.map(({ name }) => name);
  return [
    { name: 'statistics', value: relative(pairs(statistics, got.model, expected.model)), bound: LOSS },
    ...[...expected.optimizer].map(([kept, tensors]) => ({
      name: `gradients (${kept})`,
      value: relative(pairs(tensors.keys(), got.optimizer.get(kept)!, tensors)),
      bound: GRADIENTS,
    })),
    {
      name: 'update',
      value: relative(parameters.map((name) => [change(got, name), change(expected, name)])),
      bound: UPDATE,
    },
  ];
}

/** Return images of noise, and a target box of each anchor's size, so that all levels match. */
export function makeBatch(manifest: Manifest): { images: Uint8Array; rows: TargetRow[] } {
  const draw = random(0);
  const [height, width] = manifest.imageSize;
  const images = Uint8Array.from({ length: manifest.batchSize * 3 * height * width }, () =>
    Math.floor(draw() * 256),
  );
  const sizes = manifest.anchors.flat();
  const count = Math.min(sizes.length, manifest.maxTargets);
  const rows = Array.from({ length: count }, (_, index): TargetRow => {
    // Spread over the levels if the graph takes fewer target rows than there are anchors.
    const [across, down] = sizes[Math.round((index * (sizes.length - 1)) / Math.max(count - 1, 1))]!;
    const category = Math.floor(draw() * manifest.names.length);
    const centre = (): number => 0.1 + 0.8 * draw();
    const [x, y] = [centre(), centre()];
    return [index % manifest.batchSize, category, x, y, Math.min(across / width, 1), Math.min(down / height, 1)];
  });
  return { images, rows };
}

type Pair = readonly [ArrayLike<number>, ArrayLike<number>];

/** Return the L2 norm of the differences, relative to that of the expected values. */
function relative(pairs: readonly Pair[]): number {
  let [difference, norm] = [0, 0];
  for (const [got, expected] of pairs) {
    for (let index = 0; index < expected.length; index++) {
      difference += (got[index]! - expected[index]!) ** 2;
      norm += expected[index]! ** 2;
    }
  }
  return norm ? Math.sqrt(difference / norm) : Math.sqrt(difference);
}
