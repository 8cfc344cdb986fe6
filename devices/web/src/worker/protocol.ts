/** What the page asks of its worker, and what the worker tells it. */

import type { Bytes } from '../runtime/bytes.ts';
import type { Label } from '../runtime/letterbox.ts';
import type { Manifest } from '../runtime/manifest.ts';
import type { Difference } from '../runtime/self_check.ts';
import type { Provider } from '../runtime/graphs.ts';
import type { RecordedStep, RunSettings } from '../runtime/trainer.ts';
import type { Validation } from '../runtime/validate.ts';

/** An image with its boxes, in fractions of the image. */
export interface LabelledImage {
  readonly id: string;
  readonly name: string;
  readonly blob: Blob;
  readonly labels: readonly Label[];
}

/** A folder that was read, but not verified. */
export type FolderFiles = ReadonlyMap<string, Bytes | Blob>;

export interface OpenRequest {
  readonly files: FolderFiles;
  readonly provider: Provider;
}

export interface Opened {
  readonly manifest: Manifest;
  readonly verified: readonly string[]; // files whose SHA-256 is the manifest's
  readonly engine: string;
  readonly differences: readonly Difference[]; // of the self-check; empty on the processor
  readonly seconds: number;
}

export interface StateRequest {
  readonly content: Bytes;
  readonly name: string;
  readonly fresh: boolean; // take the weights only, for a new training
}

export interface StateSummary {
  readonly updates: number;
  readonly skipped: number;
}

export interface TrainRequest {
  readonly images: readonly LabelledImage[];
  readonly settings: RunSettings;
  readonly epoch: number; // to begin with
}

export interface TrainOutcome extends StateSummary {
  readonly epochs: number; // that are complete
  readonly seconds: number;
}

/** The worker's handlers. */
export interface Work {
  readonly open: (request: OpenRequest) => Promise<Opened>;
  readonly load: (request: StateRequest) => Promise<StateSummary>;
  readonly reset: (nothing: null) => Promise<StateSummary>;
  readonly train: (request: TrainRequest) => Promise<TrainOutcome>;
  readonly stop: (nothing: null) => void;
  readonly validate: (images: readonly LabelledImage[]) => Promise<Validation>;
  readonly save: (nothing: null) => Promise<Bytes>;
  readonly exportDetector: (nothing: null) => Promise<Bytes>;
  readonly [name: string]: (argument: never) => unknown;
}

export interface EpochDone {
  readonly epochs: number; // that are complete
  readonly state: Bytes;
}

/** What the worker tells during a training. */
export interface Told {
  readonly step: RecordedStep & { readonly milliseconds: number };
  readonly epoch: EpochDone;
  readonly verified: string;
  readonly [name: string]: unknown;
}
