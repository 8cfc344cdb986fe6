/** Validation: a detector run over labelled images, and its metrics. */

import { type Example, makeBatch, planAll } from './batches.ts';
import { type Detection, type Letterbox, unmapBox } from './letterbox.ts';
import { type Metrics, MetricsAccumulator, type TrueBox } from './metrics.ts';
import { checkPredictions, suppress } from './nms.ts';
import type { TrainSession } from './session.ts';
import { keepLargest } from './targets.ts';

export interface Validation {
  readonly metrics: Metrics;
  readonly items: readonly [number, number, number]; // mean loss terms over the batches
  readonly detections: readonly (readonly Detection[])[]; // per image, in its own pixels
}

/** Thresholds of YOLOv5's `val`: average precision takes all detections into account. */
const SETTINGS = { confidence: 0.001, iou: 0.6, mostDetections: 300 };
/** Thresholds of YOLOv5's `detect`, for what is shown; the page filters further. */
const SHOWN = { confidence: 0.1, iou: 0.45, mostDetections: 100 };

/**
 * Run the detector over images and compute its metrics, in pixels of the images.
 *
 * @param examples Images, shrunk by the mean over areas.
 * @throws ArtifactError if the detector gives numbers that are not finite.
 */
export async function validate(
  session: Pick<TrainSession, 'evaluate' | 'manifest'>,
  examples: readonly Example[],
): Promise<Validation> {
  const { batchSize, maxTargets, names } = session.manifest;
  const metrics = new MetricsAccumulator(names.length, SETTINGS.mostDetections);
  const detections: Detection[][] = [];
  const total = [0, 0, 0];
  const plan = planAll(examples.length, batchSize);
  for (const [number, planned] of plan.entries()) {
    const count = Math.min(batchSize, examples.length - number * batchSize);
    const batch = makeBatch(examples, planned, count);
    const { predictions, rows, items } = await session.evaluate(
      batch.images,
      keepLargest(batch.rows, maxTargets).kept,
    );
    items.forEach((item, index) => (total[index]! += item / plan.length));
    for (let place = 0; place < count; place++) {
      const { box, labels } = examples[planned[place]!.index]!;
      const size = rows * (5 + names.length);
      const own = predictions.subarray(place * size, (place + 1) * size);
      checkPredictions(own, names.length);
      const find = (settings: typeof SETTINGS, multiLabel: boolean): Detection[] =>
        suppress(own, names.length, { ...settings, multiLabel }).map((found) => unmapBox(found, box));
      metrics.add(find(SETTINGS, names.length > 1), labels.map((label) => trueBox(label, box)));
      detections.push(find(SHOWN, false));
    }
  }
  return { metrics: metrics.result(), items: [total[0]!, total[1]!, total[2]!], detections };
}

/** Return the corners of a label in pixels of its image, rounded as Python's runtime does. */
function trueBox(label: Example['labels'][number], box: Letterbox): TrueBox {
  const { fround } = Math;
  const [height, width] = box.size;
  const [x, y] = [fround(label[1] * width), fround(label[2] * height)];
  const [right, below] = [fround(fround(label[3] * width) / 2), fround(fround(label[4] * height) / 2)];
  const corners = [fround(x - right), fround(y - below), fround(x + right), fround(y + below)] as const;
  const [x1, y1, x2, y2] = unmapBox([...corners, 1, label[0]], box);
  return [label[0], x1, y1, x2, y2];
}
