/** Precision and recall of one class, as YOLOv5 and COCO take them. */

import { linspace } from './numbers.ts';

export const IOU_THRESHOLDS = linspace(0.5, 0.95, 10);
const RECALLS = linspace(0, 1, 101);
export const CONFIDENCES = linspace(0, 1, 1000);
const SMOOTHING = 0.1; // width of the window for the best F1, as confidence

/** A detection of the class: its confidence, and whether it is right at each IoU threshold. */
export interface Found {
  readonly confidence: number;
  readonly right: readonly boolean[];
}

export interface ClassCurves {
  readonly precision: Float64Array; // of the detections above each of CONFIDENCES, at IoU 0.5
  readonly recall: Float64Array;
  readonly averages: readonly number[]; // average precision per IoU threshold
}

/**
 * Compute the curves of one class.
 *
 * @param found Detections in the order of their images.
 * @param objects Number of true objects, >= 1.
 */
export function classCurves(found: readonly Found[], objects: number): ClassCurves {
  const sorted = [...found].sort((a, b) => b.confidence - a.confidence);
  const confidence = sorted.map((one) => one.confidence);
  const curves = Array.from(IOU_THRESHOLDS, (_, place) => cumulate(sorted, objects, place));
  return {
    precision: above(confidence, curves[0]!.precision, 1),
    recall: above(confidence, curves[0]!.recall, 0),
    averages: curves.map(averagePrecision),
  };
}

interface Curve {
  readonly precision: readonly number[]; // of the detections down to each confidence
  readonly recall: readonly number[];
}

function cumulate(sorted: readonly Found[], objects: number, place: number): Curve {
  let hits = 0;
  const precision: number[] = [];
  const recall: number[] = [];
  sorted.forEach(({ right }, index) => {
    hits += Number(right[place]);
    precision.push(hits / (index + 1));
    recall.push(hits / objects);
  });
  return { precision, recall };
}

/** Mean of the best precision at each of COCO's recalls or beyond. */
function averagePrecision({ precision, recall }: Curve): number {
  const envelope = [...precision];
  for (let index = envelope.length - 2; index >= 0; index--) {
    envelope[index] = Math.max(envelope[index]!, envelope[index + 1]!);
  }
  let reached = 0;
  let sum = 0;
  for (const wanted of RECALLS) {
    while (reached < recall.length && recall[reached]! < wanted) reached += 1;
    sum += envelope[reached] ?? 0;
  }
  return sum / RECALLS.length;
}

/**
 * Return the values of the detections above each threshold, interpolated linearly.
 *
 * @param confidence Confidences, falling.
 * @param values Value of the detections down to each confidence.
 * @param atNone Value above the highest confidence.
 */
function above(confidence: readonly number[], values: readonly number[], atNone: number): Float64Array {
  const last = confidence.length - 1;
  return CONFIDENCES.map((threshold) => {
    if (last < 0) return 0;
    if (threshold > confidence[0]!) return atNone;
    // The last detection at or above the threshold.
    let [low, high] = [0, last];
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (confidence[middle]! >= threshold) low = middle;
      else high = middle - 1;
    }
    if (low === last) return values[last]!;
    const slope = (values[low + 1]! - values[low]!) / (confidence[low]! - confidence[low + 1]!);
    return slope * (confidence[low]! - threshold) + values[low]!;
  });
}

/** Return the index of the confidence where the mean F1 of the classes, smoothed, is best. */
export function bestConfidence(curves: readonly ClassCurves[]): number {
  const f1 = CONFIDENCES.map((_, index) => {
    const each = curves.map(({ precision, recall }) => {
      const [p, r] = [precision[index]!, recall[index]!];
      return p + r > 0 ? (2 * p * r) / (p + r) : 0;
    });
    return each.reduce((sum, value) => sum + value, 0) / each.length;
  });
  const half = Math.round((CONFIDENCES.length * SMOOTHING) / 2);
  let best = 0;
  let highest = -Infinity;
  CONFIDENCES.forEach((_, index) => {
    let sum = 0;
    for (let offset = -half; offset <= half; offset++) {
      sum += f1[Math.min(Math.max(index + offset, 0), f1.length - 1)]! / (2 * half + 1);
    }
    if (sum > highest) [best, highest] = [index, sum];
  });
  return best;
}
