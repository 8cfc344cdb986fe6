/** Average precision of detections, with COCO's numbers (as pycocotools computes them). */

import { ConfigError } from './errors.ts';
import type { Detection } from './letterbox.ts';
import { bestConfidence, classCurves, CONFIDENCES, type Found, IOU_THRESHOLDS } from './precision_recall.ts';

/** Class, x1, y1, x2, y2 in the pixels of the detections. */
export type TrueBox = readonly [number, number, number, number, number];

export interface ClassMetrics {
  readonly index: number;
  readonly objects: number;
  readonly precision: number; // at IoU 0.5 and the confidence of the best F1
  readonly recall: number;
  readonly ap50: number; // average precision at IoU 0.5
  readonly ap5095: number; // mean of the average precisions at IoU 0.5, 0.55, ..., 0.95
}

/** Means over the classes that occur in the labels; 0 if there is no object. */
export interface Metrics {
  readonly precision: number;
  readonly recall: number;
  readonly confidence: number; // at which precision and recall are taken
  readonly map50: number;
  readonly map5095: number;
  readonly images: number;
  readonly objects: number;
  readonly classes: readonly ClassMetrics[];
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
    const present = [...this.#objects.keys()].filter((index) => this.#objects[index]);
    const curves = present.map((index) => classCurves(this.#found[index]!, this.#objects[index]!));
    const best = curves.length ? bestConfidence(curves) : 0;
    const classes = present.map((index, place): ClassMetrics => {
      const { precision, recall, averages } = curves[place]!;
      return {
        index,
        objects: this.#objects[index]!,
        precision: precision[best]!,
        recall: recall[best]!,
        ap50: averages[0]!,
        ap5095: mean(averages),
      };
    });
    return {
      precision: mean(classes.map((one) => one.precision)),
      recall: mean(classes.map((one) => one.recall)),
      confidence: CONFIDENCES[best]!,
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

function mean(values: readonly number[]): number {
  return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : 0;
}
