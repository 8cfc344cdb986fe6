/** The record of a run that the page offers for download. */

import type { Label } from '../runtime/letterbox.ts';
import type { RecordedStep, RunSettings } from '../runtime/trainer.ts';

export interface RunFile {
  readonly format: string;
  readonly engine: string;
  readonly model: string;
  readonly names: readonly string[];
  readonly image_size: readonly [number, number];
  readonly batch_size: number;
  readonly settings: RunSettings;
  readonly seconds: number; // of the training
  readonly validation: readonly string[]; // names of the images that before and after are for
  readonly labels: Readonly<Record<string, readonly Label[]>>; // by image, as in label files
  readonly before: { readonly map50: number; readonly map50_95: number } | null;
  readonly after: { readonly map50: number; readonly map50_95: number } | null;
  readonly steps: readonly RecordedStep[];
}

export function formatLabels(
  images: readonly { readonly name: string; readonly labels: readonly Label[] }[],
): RunFile['labels'] {
  return Object.fromEntries(images.map(({ name, labels }) => [name, labels]));
}
