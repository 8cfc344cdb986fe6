/** The parts of the page that need no browser. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { makeBatch, planAll, planEpoch } from '../src/runtime/batches.ts';
import { DataError } from '../src/runtime/errors.ts';
import { fit, type Label } from '../src/runtime/letterbox.ts';
import { between, grown, hit, isMeant, moved, resized } from '../src/page/box_edit.ts';
import { isOfValidation, sortFiles } from '../src/page/intake.ts';
import { parseLabels, stemOf } from '../src/page/labels.ts';

const BOX: Label = [1, 0.5, 0.5, 0.25, 0.5];

test('boxes are drawn in any direction, and end at the border', () => {
  assert.deepEqual(between(2, [0.75, 0.25], [0.25, 0.5]), [2, 0.5, 0.375, 0.5, 0.25]);
  assert.deepEqual(between(0, [0.5, 0.5], [2, -3]), [0, 0.75, 0.25, 0.5, 0.5]);
  assert.ok(!isMeant(between(0, [0.5, 0.5], [0.5, 0.9]), [0.01, 0.01]));
});

test('boxes move to the border and are resized at a corner', () => {
  assert.deepEqual(moved(BOX, 5, -5), [1, 0.875, 0.25, 0.25, 0.5]);
  assert.deepEqual(resized(BOX, [1, 1], [0.875, 1]), [1, 0.625, 0.625, 0.5, 0.75]);
  assert.deepEqual(resized(BOX, [-1, -1], [0.125, 0]), [1, 0.375, 0.375, 0.5, 0.75]);
  assert.deepEqual(grown(BOX, 0.125, 0), [1, 0.5625, 0.5, 0.375, 0.5]);
  assert.deepEqual(grown(BOX, -9, 0)[3], 0); // not turned inside out
});

test('the chosen box gives its corners, the others the smallest around the point', () => {
  const labels: Label[] = [BOX, [0, 0.5, 0.5, 0.0625, 0.0625]];
  assert.deepEqual(hit(labels, -1, [0.5, 0.5], [0, 0]), { index: 1, corner: null });
  assert.deepEqual(hit(labels, -1, [0.5, 0.7], [0, 0]), { index: 0, corner: null });
  assert.deepEqual(hit(labels, 0, [0.63, 0.76], [0.02, 0.02]), { index: 0, corner: [1, 1] });
  assert.equal(hit(labels, 0, [0.1, 0.1], [0.02, 0.02]), null);
});

test('label files are read as Python reads them', () => {
  const text = '\ufeff0 0.5 0.5 0.25 0.25\r\n\r\n1 0.5 0.5 1 1.00000004\n0 0.5 0.5 0.25 0.25\n';
  assert.deepEqual(parseLabels(text, 'a.txt', 2), [[0, 0.5, 0.5, 0.25, 0.25], [1, 0.5, 0.5, 1, 1]]);
  for (const [line, said] of [
    ['2 0.5 0.5 0.1 0.1', 'a.txt:1: class 2'],
    ['0 0.5 0.5 0.1', 'a.txt:1: 4 columns'],
    ['0 0.5 0.5 0 0.1', 'a.txt:1: 0'],
    ['0 x 0.5 0.1 0.1', 'a.txt:1: x'],
    ['0 0.5 1.5 0.1 0.1', 'a.txt:1: 1.5'],
  ] as const) {
    assert.throws(() => parseLabels(line, 'a.txt', 2), (error: Error) => {
      assert.ok(error instanceof DataError);
      assert.ok(error.message.startsWith(said), error.message);
      return true;
    });
  }
  assert.equal(stemOf('labels/train/00001.txt'), stemOf('images/train/00001.png'));
});

test('files are sorted by what they are', () => {
  const files = ['art/manifest.json', 'art/state.safetensors', 'art/train_step.onnx', 'a.PNG', 'val/b.jpg', 'a.txt', 'last.safetensors', 'x.zip'];
  const sorted = sortFiles(files.map((path) => ({ path, file: { name: path } as File })));
  assert.deepEqual([...sorted.folder!.keys()], ['manifest.json', 'state.safetensors', 'train_step.onnx']);
  assert.deepEqual(sorted.images.map(({ path }) => path), ['a.PNG', 'val/b.jpg']);
  assert.deepEqual(sorted.images.map(({ path }) => isOfValidation(path)), [false, true]);
  assert.deepEqual(sorted.labels.map(({ path }) => path), ['a.txt']);
  assert.deepEqual(sorted.states.map(({ name }) => name), ['last.safetensors']);
  assert.deepEqual(sorted.others, ['x.zip']);
});

test('epochs hold every image, and depend on seed and epoch only', () => {
  const settings = { seed: 3, epoch: 1, flips: { mirror: 0.5, flip: 0 } };
  const plan = planEpoch(10, 4, settings);
  assert.deepEqual(plan, planEpoch(10, 4, settings));
  assert.notDeepEqual(plan, planEpoch(10, 4, { ...settings, epoch: 2 }));
  const order = plan.flat().map(({ index }) => index);
  assert.deepEqual(order.slice(0, 10).sort((a, b) => a - b), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  assert.deepEqual(order.slice(10), order.slice(0, 2)); // repeats fill the last batch
  const mirrored = Array.from({ length: 50 }, (_, epoch) => planEpoch(10, 10, { ...settings, epoch })).flat(2);
  const fraction = mirrored.filter((one) => one.mirrored).length / mirrored.length;
  assert.ok(fraction > 0.4 && fraction < 0.6);
  assert.ok(mirrored.every((one) => !one.flipped));
  assert.deepEqual(planAll(3, 2).flat().map(({ index }) => index), [0, 1, 2, 0]);
});

test('flips turn pixels and boxes alike', () => {
  const planes = Uint8Array.from({ length: 12 }, (_, index) => index); // (3, 2, 2)
  const example = { name: 'a', planes, labels: [[0, 0.25, 0.125, 0.5, 0.25]] as const, box: fit([2, 2], [2, 2]) };
  const turn = (mirrored: boolean, flipped: boolean): ReturnType<typeof makeBatch> =>
    makeBatch([example], [{ index: 0, mirrored, flipped }]);
  assert.deepEqual([...turn(true, false).images], [1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10]);
  assert.deepEqual([...turn(false, true).images], [2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9]);
  assert.deepEqual(turn(true, true).rows, [[0, 0, 0.75, 0.875, 0.5, 0.25]]);
  assert.deepEqual(turn(false, false).rows, [[0, 0, 0.25, 0.125, 0.5, 0.25]]);
  assert.throws(() => makeBatch([], []), DataError);
});
