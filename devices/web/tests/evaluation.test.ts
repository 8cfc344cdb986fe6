import assert from 'node:assert/strict';
import { test } from 'node:test';

import { ArtifactError, ConfigError } from '../src/runtime/errors.ts';
import type { Detection } from '../src/runtime/letterbox.ts';
import { MetricsAccumulator, type TrueBox } from '../src/runtime/metrics.ts';
import { suppress } from '../src/runtime/nms.ts';
import { assertClose, jsonOf } from './data.ts';

interface Case {
  readonly classes: number;
  readonly multiLabel: boolean;
  readonly images: readonly { rows: number[][]; kept: Detection[]; labels: TrueBox[] }[];
  readonly map50: number;
  readonly map5095: number;
  readonly each: readonly (readonly [number, number, number, number])[];
}

const { detections: cases } = jsonOf<{ detections: Case[] }>('python.json');

for (const one of cases) {
  test(`${one.classes} classes: boxes and average precision are Python's`, () => {
    const metrics = new MetricsAccumulator(one.classes);
    for (const { rows, kept, labels } of one.images) {
      const settings = { confidence: 0.3, iou: 0.6, mostDetections: 50, multiLabel: one.multiLabel };
      const found = suppress(Float32Array.from(rows.flat()), one.classes, settings);
      assert.deepEqual(found, kept);
      metrics.add(found, labels);
    }
    const result = metrics.result();
    assert.ok(result.map50 > 0.2 && result.map50 < 1); // neither trivial nor perfect
    assertClose([result.map50, result.map5095], [one.map50, one.map5095], 1e-12);
    result.classes.forEach(({ index, objects, ap50, ap5095 }, place) => {
      assertClose([index, objects, ap50, ap5095], one.each[place]!, 1e-12);
    });
  });
}

test('no objects give zeros', () => {
  const metrics = new MetricsAccumulator(2);
  metrics.add([[0, 0, 1, 1, 0.9, 1]], []);
  assert.deepEqual(metrics.result(), { map50: 0, map5095: 0, images: 1, objects: 0, classes: [] });
});

test('numbers that are not finite and unknown classes are refused', () => {
  assert.throws(() => suppress(Float32Array.of(1, 1, 1, 1, NaN, 1), 1), ArtifactError);
  assert.throws(() => new MetricsAccumulator(2).add([], [[2, 0, 0, 1, 1]]), ConfigError);
});
