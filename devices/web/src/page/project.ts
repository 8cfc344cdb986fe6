/** What the user works on: images with boxes, a run and its state. */

import type { Bytes } from '../runtime/bytes.ts';
import { formatLabels, type RunFile } from './run_file.ts';
import type { Label } from '../runtime/letterbox.ts';
import type { Manifest } from '../runtime/manifest.ts';
import type { RecordedStep, RunSettings } from '../runtime/trainer.ts';
import type { Validation } from '../runtime/validate.ts';
import type { LabelledImage } from '../worker/protocol.ts';

export interface ProjectImage {
  readonly id: string;
  readonly name: string; // unique within the project
  readonly blob: Blob;
  readonly width: number;
  readonly height: number;
  readonly labels: readonly Label[];
  readonly isValidation: boolean;
  readonly order: number;
}

/** A training, as far as it got. */
export interface Run {
  readonly settings: RunSettings;
  readonly images: readonly string[]; // ids trained on
  readonly epochs: number; // that are complete
  readonly steps: readonly RecordedStep[];
  readonly seconds: number;
  readonly judged: readonly string[]; // ids of the images of before and after
  readonly before: Validation | null;
  readonly after: Validation | null;
}

/** What a reload continues with. */
export interface Saved {
  readonly run: Run | null;
  readonly state: Bytes | null; // null before the first epoch
}

/** Images to train on: a batch may hold an image without boxes, which shows only background. */
export function trainingImages(images: readonly ProjectImage[]): ProjectImage[] {
  return images.filter((image) => !image.isValidation);
}

/** Images that before and after are shown for: those of validation, or else all. */
export function judgedImages(images: readonly ProjectImage[]): ProjectImage[] {
  const held = images.filter((image) => image.isValidation);
  return held.length ? held : [...images];
}

export function toWorker({ id, name, blob, labels }: ProjectImage): LabelledImage {
  return { id, name, blob, labels };
}

/** Return a name that no image has yet. */
export function freeName(name: string, images: readonly ProjectImage[]): string {
  const taken = new Set(images.map((image) => image.name));
  if (!taken.has(name)) return name;
  const [, stem = name, suffix = ''] = /^(.*?)(\.[^.]*)?$/.exec(name) ?? [];
  let number = 2;
  while (taken.has(`${stem}-${number}${suffix}`)) number += 1;
  return `${stem}-${number}${suffix}`;
}

/** Return the record of a run, from which Python can repeat it. */
export function recordOf(
  run: Run,
  images: readonly ProjectImage[],
  manifest: Manifest,
  engine: string,
): RunFile {
  const metrics = (validation: Validation | null): RunFile['before'] =>
    validation && { map50: validation.metrics.map50, map50_95: validation.metrics.map5095 };
  return {
    format: 'exportloss-web-run/1',
    engine,
    model: manifest.model,
    names: manifest.names,
    image_size: manifest.imageSize,
    batch_size: manifest.batchSize,
    settings: run.settings,
    seconds: run.seconds,
    validation: run.judged.flatMap((id) => images.find((image) => image.id === id)?.name ?? []),
    labels: formatLabels(images),
    before: metrics(run.before),
    after: metrics(run.after),
    steps: run.steps,
  };
}
