/** Non-maximum suppression: from a detector's rows to boxes, in float32 as Python's. */

import { ArtifactError } from './errors.ts';
import type { Detection } from './letterbox.ts';
import { clip } from './numbers.ts';

const { fround } = Math;
const FARTHEST = 2 ** 24; // pixels; beyond every canvas
const MOST_CANDIDATES = 30_000; // bounds the work for an untrained model

export interface NmsSettings {
  readonly confidence?: number; // that detections must exceed
  readonly iou?: number; // above which a less confident box of the same class is dropped
  readonly mostDetections?: number; // per image
  readonly multiLabel?: boolean; // a row may yield a box for every class, not only the best one
}

/**
 * Keep the most confident of overlapping boxes of a class, as YOLOv5 does.
 *
 * @param rows (n, 5 + classes) values of one image: x, y, width, height in pixels (x, y the centre),
 *   objectness, class probabilities.
 * @returns Boxes in pixels, the most confident first.
 * @throws ArtifactError if a value is not finite.
 */
export function suppress(
  rows: Float32Array,
  numClasses: number,
  { confidence = 0.25, iou = 0.45, mostDetections = 300, multiLabel = false }: NmsSettings = {},
): Detection[] {
  checkFinite(rows);
  const kept: Detection[] = [];
  const threshold = fround(iou);
  for (const found of candidates(rows, 5 + numClasses, fround(confidence), multiLabel)) {
    if (kept.length >= mostDetections) break;
    if (!kept.some((other) => other[5] === found[5] && overlaps(found, other, threshold))) {
      kept.push(found);
    }
  }
  return kept;
}

function checkFinite(rows: Float32Array): void {
  let bad = 0;
  for (const value of rows) if (!Number.isFinite(value)) bad += 1;
  if (bad) {
    throw new ArtifactError(
      `the detector gives ${bad} of ${rows.length} numbers that are not finite; its weights are ` +
        'damaged: start again from an earlier state, with a lower learning rate',
    );
  }
}

/** Boxes that exceed the threshold, the most confident first, among equals the earlier. */
function candidates(
  rows: Float32Array,
  columns: number,
  threshold: number,
  multiLabel: boolean,
): Detection[] {
  const found: Detection[] = [];
  for (let start = 0; start < rows.length; start += columns) {
    const objectness = rows[start + 4]!;
    if (!(objectness > threshold)) continue;
    let best = -1;
    let highest = -Infinity;
    for (let label = 0; label < columns - 5; label++) {
      const confidence = fround(objectness * rows[start + 5 + label]!);
      if (multiLabel && confidence > threshold) found.push(box(rows, start, confidence, label));
      if (confidence > highest) [best, highest] = [label, confidence];
    }
    if (!multiLabel && highest > threshold) found.push(box(rows, start, highest, best));
  }
  return found.sort((a, b) => b[4] - a[4]).slice(0, MOST_CANDIDATES); // sort() is stable
}

function box(rows: Float32Array, start: number, confidence: number, label: number): Detection {
  const side = (value: number): number => clip(fround(value), -FARTHEST, FARTHEST);
  const [x, y] = [rows[start]!, rows[start + 1]!];
  const [width, height] = [fround(rows[start + 2]! / 2), fround(rows[start + 3]! / 2)];
  return [side(x - width), side(y - height), side(x + width), side(y + height), confidence, label];
}

function overlaps(some: Detection, other: Detection, threshold: number): boolean {
  const across = fround(Math.min(some[2], other[2]) - Math.max(some[0], other[0]));
  const down = fround(Math.min(some[3], other[3]) - Math.max(some[1], other[1]));
  const inter = fround(Math.max(across, 0) * Math.max(down, 0));
  const areas = fround(area(some) + area(other));
  // Multiplied out, so that two boxes without area do not divide 0 by 0.
  return inter > fround(threshold * fround(areas - inter));
}

function area(found: Detection): number {
  return fround(fround(found[2] - found[0]) * fround(found[3] - found[1]));
}
