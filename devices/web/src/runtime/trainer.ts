/** The training loop: batches, schedule and a record from which Python can repeat the run. */

import { batchCount, type Example, type Flips, makeBatch, planEpoch } from './batches.ts';
import { DataError, TrainingError } from './errors.ts';
import { type PlannedStep, type Rates, RATES, Schedule } from './schedule.ts';
import type { StepResult, TrainSession } from './session.ts';
import { keepLargest } from './targets.ts';

const MAX_NORM = 10; // clipping norm of the gradients, as in YOLOv5
const MOST_SKIPPED = 10; // steps in a row that change nothing

export interface RunSettings {
  readonly epochs: number;
  readonly lr0: number; // learning rate after warm-up, the highest
  readonly seed: number; // of order and flips
  readonly flips: Flips;
}

/** One step of a run: what Python needs to repeat it, and what came of it. */
export interface RecordedStep {
  readonly epoch: number;
  readonly images: readonly string[];
  readonly mirrored: readonly boolean[];
  readonly flipped: readonly boolean[];
  readonly lr: readonly [number, number, number];
  readonly momentum: number;
  readonly update: boolean;
  readonly loss: number;
  readonly items: readonly [number, number, number];
  readonly skipped: boolean;
}

/** Rates of a run; every step updates, as the data sets are small. */
export function ratesOf(settings: RunSettings): Rates {
  return { ...RATES, lr0: settings.lr0, warmupBiasLr: settings.lr0 };
}

export function scheduleOf(
  settings: RunSettings,
  examples: number,
  { batchSize, optimizer }: { batchSize: number; optimizer: string },
): Schedule {
  return new Schedule({
    epochs: settings.epochs,
    batches: batchCount(examples, batchSize),
    batchSize,
    rates: ratesOf(settings),
    optimizer,
    cosine: true,
    nominalBatch: batchSize,
  });
}

/**
 * Train one epoch.
 *
 * @param told Called after each step; returns false to stop.
 * @returns Whether the epoch is complete.
 * @throws TrainingError if ten steps in a row change nothing.
 */
export async function trainEpoch(
  session: Pick<TrainSession, 'step' | 'manifest'>,
  examples: readonly Example[],
  settings: RunSettings,
  epoch: number,
  told: (step: RecordedStep) => boolean | Promise<boolean>,
): Promise<boolean> {
  if (!examples.length) throw new DataError('there are no images to train on; add some, and draw boxes');
  const { batchSize, maxTargets, optimizer } = session.manifest;
  const schedule = scheduleOf(settings, examples.length, { batchSize, optimizer: optimizer ?? '' });
  const plan = planEpoch(examples.length, batchSize, { ...settings, epoch });
  let skipped = 0;
  for (const [number, step] of schedule.steps(epoch).entries()) {
    const { images: pixels, rows, planned } = makeBatch(examples, plan[number]!);
    const { kept } = keepLargest(rows, maxTargets);
    const result = await session.step(pixels, kept, {
      lr: step.lr,
      momentum: step.momentum,
      weightDecay: schedule.weightDecay,
      maxNorm: MAX_NORM,
      update: step.update,
    });
    skipped = result.skipped ? skipped + 1 : 0;
    if (skipped >= MOST_SKIPPED) {
      throw new TrainingError(
        `${skipped} steps in a row changed nothing, because their loss (${result.loss}) or gradients ` +
          'were not finite; start again with a lower learning rate',
      );
    }
    const images = planned.map((one) => ({ ...one, name: examples[one.index]!.name }));
    if (!(await told(record(epoch, step, result, images)))) return false;
  }
  return true;
}

function record(
  epoch: number,
  { lr, momentum, update }: PlannedStep,
  { loss, items, skipped }: StepResult,
  images: readonly { name: string; mirrored: boolean; flipped: boolean }[],
): RecordedStep {
  return {
    epoch,
    images: images.map(({ name }) => name),
    mirrored: images.map(({ mirrored }) => mirrored),
    flipped: images.map(({ flipped }) => flipped),
    lr,
    momentum,
    update,
    loss,
    items,
    skipped,
  };
}
