/** YOLOv5's training schedule (v6.2, v7.0), as Python's runtime has it. */

import { ConfigError } from './errors.ts';
import { MAX_RATE } from './limits.ts';
import { isCount, roundHalfEven } from './numbers.ts';

export const MIN_WARMUP = 100; // batches, however short the run is

/** Rates, momentum and decay; the defaults are those of YOLOv5's `hyp.scratch-low.yaml`. */
export interface Rates {
  readonly lr0: number; // learning rate at the start
  readonly lrf: number; // learning rate at the end as a fraction of lr0
  readonly momentum: number; // or first beta of Adam and AdamW
  readonly weightDecay: number; // at the nominal batch
  readonly warmupEpochs: number; // at least MIN_WARMUP batches
  readonly warmupMomentum: number;
  readonly warmupBiasLr: number;
}

export const RATES: Rates = {
  lr0: 0.01,
  lrf: 0.01,
  momentum: 0.937,
  weightDecay: 5e-4,
  warmupEpochs: 3,
  warmupMomentum: 0.8,
  warmupBiasLr: 0.1,
};

export interface ScheduleSettings {
  readonly epochs: number;
  readonly batches: number; // per epoch
  readonly batchSize: number;
  readonly rates: Rates;
  readonly optimizer: string;
  readonly cosine: boolean; // a cosine decay instead of a linear one
  readonly nominalBatch: number; // images per update; 64 in YOLOv5
}

export interface PlannedStep {
  readonly lr: readonly [number, number, number]; // of weights, norms and biases
  readonly momentum: number;
  readonly accumulate: number; // batches whose gradients are added up per update
  readonly update: boolean;
}

/**
 * Settings of every batch: warm-up, decay and accumulation.
 *
 * Gradients are added up over about `nominalBatch` images, at most to the end of the epoch, so that
 * a state between two epochs is complete.
 *
 * @throws ConfigError if a setting is out of range.
 */
export class Schedule {
  readonly settings: ScheduleSettings;

  constructor(settings: ScheduleSettings) {
    for (const name of ['epochs', 'batches', 'batchSize', 'nominalBatch'] as const) {
      const value = settings[name];
      if (!isCount(value) || value < 1) throw new ConfigError(`${name} is ${value}; expected at least 1`);
    }
    for (const [name, value] of Object.entries(settings.rates) as [string, number][]) {
      const most = name.toLowerCase().endsWith('momentum') ? 1 : MAX_RATE;
      if (!(value >= 0 && value <= most) || (most === 1 && value === 1)) {
        throw new ConfigError(`${name} is ${value}; expected a number from 0 to ${most}`);
      }
    }
    this.settings = settings;
  }

  get warmupBatches(): number {
    const { rates, batches } = this.settings;
    return Math.max(roundHalfEven(rates.warmupEpochs * batches), MIN_WARMUP);
  }

  /** Batches per update after warm-up. */
  get accumulate(): number {
    return Math.max(roundHalfEven(this.settings.nominalBatch / this.settings.batchSize), 1);
  }

  /** Decay of the weights, scaled to the number of images per update. */
  get weightDecay(): number {
    const { rates, batchSize, nominalBatch } = this.settings;
    return (rates.weightDecay * batchSize * this.accumulate) / nominalBatch;
  }

  /** Fraction of `lr0` that the decay has reached after a number of epochs. */
  factor(epoch: number): number {
    const { rates, epochs, cosine } = this.settings;
    const done = epoch / epochs;
    if (cosine) return ((1 - Math.cos(Math.PI * done)) / 2) * (rates.lrf - 1) + 1;
    return (1 - done) * (1 - rates.lrf) + rates.lrf;
  }

  /** Return the steps of an epoch, numbered from 0; the last one always updates. */
  steps(epoch: number): PlannedStep[] {
    const { batches } = this.settings;
    let waiting = 0; // batches whose gradients wait for an update
    return Array.from({ length: batches }, (_, index) => {
      const step = this.#step(epoch, index);
      waiting += 1;
      const update = waiting >= step.accumulate || index === batches - 1;
      if (update) waiting = 0;
      return { ...step, update };
    });
  }

  #step(epoch: number, index: number): Omit<PlannedStep, 'update'> {
    const { rates, batches, optimizer, nominalBatch, batchSize } = this.settings;
    const warmsUp = epoch * batches <= this.warmupBatches; // the first batch of the epoch
    let lr = rates.lr0 * this.factor(warmsUp ? epoch : epoch - 1);
    let biasLr = lr;
    let { momentum } = rates;
    let { accumulate } = this;
    const iteration = epoch * batches + index;
    if (iteration <= this.warmupBatches) {
      const warmUp = (from: number, to: number): number =>
        iteration === this.warmupBatches ? to : ((to - from) / this.warmupBatches) * iteration + from;
      biasLr = warmUp(rates.warmupBiasLr, lr);
      lr = warmUp(0, lr);
      if (!optimizer.startsWith('adam')) momentum = warmUp(rates.warmupMomentum, momentum);
      accumulate = Math.max(roundHalfEven(warmUp(1, nominalBatch / batchSize)), 1);
    }
    return { lr: [lr, lr, biasLr], momentum, accumulate };
  }
}

/** YOLOv5's decay of the moving average in an update, given the updates including it. */
export function emaDecay(updates: number): number {
  return -0.9999 * Math.expm1(-updates / 2000);
}
