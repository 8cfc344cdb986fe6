/** Average precision of detections, with COCO's numbers (as pycocotools computes them). */

import { ConfigError } from './errors.ts';
import type { Detection } from './letterbox.ts';
import { linspace } from './numbers.ts';

export const IOU_THRESHOLDS = linspace(0.5, 0.95, 10);
const RECALLS = linspace(0, 1, 101);

/** Class, x1, y1, x2, y2 in the pixels of the detections. */
export type TrueBox = readonly [number, number, number, number, number];

export interface ClassMetrics {
  readonly index: number;
  readonly objects: number;
  readonly ap50: number; // average precision at IoU 0.5
  readonly ap5095: number; // mean of the average precisions at IoU 0.5, 0.55, ..., 0.95
}

/** Means over the classes that occur in the labels; 0 if there is no object. */
export interface Metrics {
  readonly map50: number;
  readonly map5095: number;
  readonly images: number;
  readonly objects: number;
  readonly classes: readonly ClassMetrics[];
}

interface Found {
  readonly confidence: number;
  readonly right: readonly boolean[]; // per IoU threshold
}

/** Collects the detections of images one by one, and computes their metrics. */
export class MetricsAccumulator {
  readonly #found: Found[][]; // per class
  readonly #objects: number[];
  readonly #most: number;
  #images = 0;

  /** @param most Number of detections that count per image and class. */
  constructor(numClasses: number, most = 300) {
    this.#found = Array.from({ length: numClasses }, () => []);
    this.#objects = Array.from({ length: numClasses }, () => 0);
    this.#most = most;
  }

  /**
   * Add an image.
   *
   * Detections are matched by class, the most confident first, each to the unmatched object that it
   * overlaps most (among equals the later).
   *
   * @throws ConfigError if a class is unknown.
   */
  add(detections: readonly Detection[], labels: readonly TrueBox[]): void {
    this.#images += 1;
    for (const category of [...detections.map((one) => one[5]), ...labels.map((one) => one[0])]) {
      if (!(category in this.#found)) {
        throw new ConfigError(
          `a box has class ${category}; expected a whole number in [0, ${this.#found.length})`,
        );
      }
    }
    for (const [category, found] of this.#found.entries()) {
      const truth = labels.filter((label) => label[0] === category);
      const boxes = detections
        .filter((one) => one[5] === category)
        .sort((a, b) => b[4] - a[4])
        .slice(0, this.#most);
      this.#objects[category]! += truth.length;
      const rights = match(boxes, truth);
      boxes.forEach((one, index) => found.push({ confidence: one[4], right: rights[index]! }));
    }
  }

  result(): Metrics {
    const classes: ClassMetrics[] = [];
    this.#objects.forEach((objects, index) => {
      if (!objects) return;
      const precisions = averagePrecisions(this.#found[index]!, objects);
      classes.push({ index, objects, ap50: precisions[0]!, ap5095: mean(precisions) });
    });
    return {
      map50: mean(classes.map((one) => one.ap50)),
      map5095: mean(classes.map((one) => one.ap5095)),
      images: this.#images,
      objects: this.#objects.reduce((sum, count) => sum + count, 0),
      classes,
    };
  }
}

/** Return per detection, the most confident first, whether it is right at each IoU threshold. */
function match(boxes: readonly Detection[], truth: readonly TrueBox[]): boolean[][] {
  const overlaps = boxes.map((found) => truth.map((label) => iou(found, label)));
  const rights = boxes.map(() => Array.from(IOU_THRESHOLDS, () => false));
  IOU_THRESHOLDS.forEach((threshold, place) => {
    const free = truth.map(() => true);
    overlaps.forEach((row, index) => {
      let best = -1;
      row.forEach((overlap, object) => {
        if (free[object] && overlap >= threshold && (best < 0 || overlap >= row[best]!)) best = object;
      });
      if (best >= 0) {
        free[best] = false;
        rights[index]![place] = true;
      }
    });
  });
  return rights;
}

function iou(found: Detection, label: TrueBox): number {
  const across = Math.min(found[2], label[3]) - Math.max(found[0], label[1]);
  const down = Math.min(found[3], label[4]) - Math.max(found[1], label[2]);
  const inter = Math.max(across, 0) * Math.max(down, 0);
  if (!inter) return 0;
  const area = (found[2] - found[0]) * (found[3] - found[1]);
  return inter / (area + (label[3] - label[1]) * (label[4] - label[2]) - inter);
}

/** Return the average precision per IoU threshold: the mean of the best precision at each recall. */
function averagePrecisions(found: readonly Found[], objects: number): number[] {
  const sorted = [...found].sort((a, b) => b.confidence - a.confidence);
  return Array.from(IOU_THRESHOLDS, (_, place) => {
    let hits = 0;
    const recall: number[] = [];
    const precision: number[] = [];
    sorted.forEach(({ right }, index) => {
      hits += Number(right[place]);
      recall.push(hits / objects);
      precision.push(hits / (index + 1));
    });
    for (let index = precision.length - 2; index >= 0; index--) {
      precision[index] = Math.max(precision[index]!, precision[index + 1]!);
    }
    let reached = 0;
    return mean(
      Array.from(RECALLS, (wanted) => {
        while (reached < recall.length && recall[reached]! < wanted) reached += 1;
        return precision[reached] ?? 0;
      }),
    );
  });
}

function mean(values: readonly number[]): number {
  return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : 0;
}
