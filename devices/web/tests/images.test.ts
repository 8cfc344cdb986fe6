import assert from 'node:assert/strict';
import { test } from 'node:test';

import { type Detection, fit, type Label, mapLabel, place, planes, type Size, unmapBox } from '../src/runtime/letterbox.ts';
import { type Image, resizeArea, resizeLinear } from '../src/runtime/resize.ts';
import { ConfigError } from '../src/runtime/errors.ts';
import { jsonOf, tensorsOf } from './data.ts';

interface Case {
  readonly source: Size;
  readonly scaled: readonly [Size, Size];
  readonly pad: readonly [Size, Size];
  readonly labels: readonly Label[];
  readonly mapped: readonly Label[];
  readonly boxes: readonly Detection[];
  readonly unmapped: readonly Detection[];
}

const { resized: cases } = jsonOf<{ resized: Case[] }>('python.json');
const tensors = tensorsOf('images.safetensors');
const SIZE: Size = [64, 96];

function imageOf(name: string): Image {
  const { shape, content } = tensors.get(name)!;
  return { height: shape[0]!, width: shape[1]!, data: new Uint8Array(content) };
}

cases.forEach((one, number) => {
  const image = imageOf(`${number}/image`);
  const box = fit(one.source, SIZE, { truncate: true });

  test(`${one.source.join(' x ')}: pixels are Python's`, () => {
    const linear = imageOf(`${number}/linear`);
    assert.deepEqual(resizeLinear(image, linear.height, linear.width), linear);
    assert.deepEqual(place(image, box), imageOf(`${number}/canvas`));
    if (tensors.has(`${number}/area`)) {
      const area = imageOf(`${number}/area`);
      assert.deepEqual(resizeArea(image, area.height, area.width), area);
    }
  });

  test(`${one.source.join(' x ')}: places and boxes are Python's`, () => {
    for (const [index, truncate] of [true, false].entries()) {
      const { scaled, pad } = fit(one.source, SIZE, { truncate });
      assert.deepEqual({ scaled, pad }, { scaled: one.scaled[index], pad: one.pad[index] });
    }
    assert.deepEqual(one.labels.map((label) => mapLabel(label, box)), one.mapped);
    assert.deepEqual(one.boxes.map((found) => unmapBox(found, box)), one.unmapped);
  });
});

test('planes come channel by channel', () => {
  const image = { height: 1, width: 2, data: Uint8Array.of(1, 2, 3, 4, 5, 6) };
  assert.deepEqual(planes(image), Uint8Array.of(1, 4, 2, 5, 3, 6));
});

test('sizes that make no image are refused', () => {
  const image = imageOf('0/image');
  assert.throws(() => resizeLinear(image, 0, 4), ConfigError);
  assert.throws(() => resizeArea(image, image.height + 1, 4), ConfigError);
});
