/** Non-maximum suppression: from a detector's rows to boxes, in float32 as Python's. */

import { ArtifactError } from './errors.ts';
import type { Detection } from './letterbox.ts';
import { clip } from './numbers.ts';

const { fround } = Math;
const FARTHEST = 2 ** 24; // pixels; beyond every canvas

const LARGEST = 3.4028234663852886e38; // of float32

export interface NmsSettings {
  readonly confidence?: number; // that detections must exceed
  readonly iou?: number; // above which a less confident box of the same class is dropped
  readonly mostDetections?: number; // per image
  readonly multiLabel?: boolean; // a row may yield a box for every class, not only the best one
  readonly agnostic?: boolean; // boxes of different classes suppress each other, too
  readonly classes?: readonly number[] | null; // classes to keep; null for all
  readonly mostCandidates?: number; // boxes considered, the most confident; bounds the work
}

/**
 * Keep the most confident of overlapping boxes of a class, as YOLOv5 does.
 *
 * Rows with a number that is not finite are no detections.
 *
 * @param rows (n, 5 + classes) values of one image: x, y, width, height in pixels (x, y the centre),
 *   objectness, class probabilities.
 * @returns Boxes in pixels, the most confident first, among equals the earlier.
 */
export function suppress(rows: Float32Array, numClasses: number, settings: NmsSettings = {}): Detection[] {
  const { iou = 0.45, mostDetections = 300, agnostic = false } = settings;
  const kept: Detection[] = [];
  const threshold = fround(iou);
  for (const found of candidates(rows, numClasses, settings)) {
    if (kept.length >= mostDetections) break;
    const isKept = (other: Detection): boolean =>
      (agnostic || other[5] === found[5]) && overlaps(found, other, threshold);
    if (!kept.some(isKept)) kept.push(found);
  }
  return kept;
}

/**
 * Check that a detector's rows are finite: NaN would otherwise read as "no detections".
 *
 * @throws ArtifactError if numbers, or the confidences that they make, are not finite.
 */
export function checkPredictions(rows: Float32Array, numClasses: number): void {
  let bad = 0;
  const columns = 5 + numClasses;
  for (let start = 0; start < rows.length; start += columns) {
    const row = rows.subarray(start, start + columns);
    const confidence = row[4]! * Math.max(...row.subarray(5));
    if (!row.every(Number.isFinite) || confidence > LARGEST) bad += 1;
  }
  if (bad) {
    throw new ArtifactError(
      `the detector gives ${bad} of ${rows.length / columns} rows that are not finite; its weights are ` +
        'damaged: start again from an earlier state, with a lower learning rate',
    );
  }
}

/** Boxes that exceed the threshold, the most confident first. */
function candidates(rows: Float32Array, numClasses: number, settings: NmsSettings): Detection[] {
  const { confidence = 0.25, multiLabel = false, classes = null, mostCandidates = 30_000 } = settings;
  const threshold = fround(confidence);
  const columns = 5 + numClasses;
  const isWanted = (label: number): boolean => classes === null || classes.includes(label);
  const found: Detection[] = [];
  for (let start = 0; start < rows.length; start += columns) {
    const objectness = rows[start + 4]!;
    if (!(objectness > threshold)) continue;
    const row = rows.subarray(start, start + columns);
    if (!row.every(Number.isFinite)) continue;
    let best = 0;
    const sure = Array.from(row.subarray(5), (probability, label) => {
      const value = fround(objectness * probability);
      if (value > fround(objectness * row[5 + best]!)) best = label;
      return value;
    });
    sure.forEach((value, label) => {
      if (value > threshold && (multiLabel || label === best) && isWanted(label)) {
        found.push(box(rows, start, value, label));
      }
    });
  }
  return found.sort((a, b) => b[4] - a[4]).slice(0, mostCandidates); // sort() is stable
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
