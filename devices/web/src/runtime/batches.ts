/** Batches of labelled images in the one shape that a graph takes. */

import { DataError } from './errors.ts';
import type { Label, Letterbox } from './letterbox.ts';
import { permutation, random } from './random.ts';
import type { TargetRow } from './targets.ts';

/** A labelled image on its canvas. */
export interface Example {
  readonly name: string;
  readonly planes: Uint8Array; // (3, H, W)
  readonly labels: readonly Label[]; // on the canvas
  readonly box: Letterbox;
}

/** An image of a batch, and how it is turned. */
export interface Planned {
  readonly index: number; // of the example
  readonly mirrored: boolean; // left and right exchanged
  readonly flipped: boolean; // top and bottom exchanged
}

export interface Batch {
  readonly images: Uint8Array; // (B, 3, H, W)
  readonly rows: readonly TargetRow[];
  readonly planned: readonly Planned[];
  readonly count: number; // of real images, which come first; the others fill the batch
}

/** Probabilities that an image is turned. */
export interface Flips {
  readonly mirror: number;
  readonly flip: number;
}

export function batchCount(examples: number, batchSize: number): number {
  return Math.ceil(examples / batchSize);
}

/**
 * Plan the batches of an epoch, all of `batchSize` images; the first images fill the last batch.
 *
 * Order and flips depend on seed and epoch only, so a continued training sees the same batches.
 */
export function planEpoch(
  examples: number,
  batchSize: number,
  { seed, epoch, flips }: { seed: number; epoch: number; flips: Flips },
): Planned[][] {
  const draw = random(seed, epoch);
  const order = permutation(examples, draw);
  return Array.from({ length: batchCount(examples, batchSize) }, (_, number) =>
    Array.from({ length: batchSize }, (_, place) => ({
      index: order[(number * batchSize + place) % examples]!,
      mirrored: draw() < flips.mirror,
      flipped: draw() < flips.flip,
    })),
  );
}

/** Return the batches of an evaluation: every example once, in order. */
export function planAll(examples: number, batchSize: number): Planned[][] {
  return Array.from({ length: batchCount(examples, batchSize) }, (_, number) =>
    Array.from({ length: batchSize }, (_, place) => ({
      index: (number * batchSize + place) % examples,
      mirrored: false,
      flipped: false,
    })),
  );
}

/** Put the images and labels of a batch together. */
export function makeBatch(
  examples: readonly Example[],
  planned: readonly Planned[],
  count = planned.length,
): Batch {
  const [first] = examples;
  if (!first) throw new DataError('there are no labelled images; draw boxes on one first');
  const [height, width] = first.box.size;
  const size = 3 * height * width;
  const images = new Uint8Array(planned.length * size);
  const rows: TargetRow[] = [];
  planned.forEach(({ index, mirrored, flipped }, place) => {
    const { planes, labels } = examples[index]!;
    images.set(turned(planes, height, width, mirrored, flipped), place * size);
    for (const [category, x, y, w, h] of labels) {
      rows.push([place, category, mirrored ? 1 - x : x, flipped ? 1 - y : y, w, h]);
    }
  });
  return { images, rows, planned, count };
}

function turned(
  planes: Uint8Array,
  height: number,
  width: number,
  mirrored: boolean,
  flipped: boolean,
): Uint8Array {
  if (!mirrored && !flipped) return planes;
  const result = new Uint8Array(planes.length);
  for (let row = 0; row < 3 * height; row++) {
    const plane = Math.floor(row / height) * height;
    const source = flipped ? plane + height - 1 - (row - plane) : row;
    const line = planes.subarray(source * width, (source + 1) * width);
    result.set(mirrored ? line.slice().reverse() : line, row * width);
  }
  return result;
}
