/** Folders whose files match their checksums, and contradict their manifest all the same. */

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { type Bytes, concat, decode, encode, sha256 } from '../src/runtime/bytes.ts';
import { ArtifactError } from '../src/runtime/errors.ts';
import { openArtifact, STATE, TRAIN_STEP } from '../src/runtime/folder.ts';
import { parseOnnx } from '../src/runtime/onnx_file.ts';
import { bytesField, numberField } from '../src/runtime/protobuf.ts';
import { formatTensorFile, parseTensorFile, storedFloats } from '../src/runtime/tensor_file.ts';
import { bytesOf, folderOf } from './data.ts';

const NAME = 'small-adamw';

/** Open a folder with other values in its manifest, or other files; everything has its checksum. */
async function opened(
  change: (manifest: Record<string, any>) => void,
  replaced: Record<string, Bytes> = {},
): Promise<unknown> {
  const manifest = JSON.parse(decode(bytesOf(NAME, 'manifest.json'))) as Record<string, any>;
  change(manifest);
  for (const [name, content] of Object.entries(replaced)) {
    manifest['files'][name] = { sha256: await sha256(content), size: content.length };
  }
  const unsigned = JSON.stringify({ ...manifest, sha256: '' });
  const signed = unsigned.replace('"sha256":""', `"sha256":"${await sha256(encode(unsigned))}"`);
  return openArtifact(folderOf(NAME, { ...replaced, 'manifest.json': encode(signed) }));
}

async function isRefused(act: Promise<unknown>, message: RegExp): Promise<void> {
  await assert.rejects(act, (error: Error) => {
    assert.ok(error instanceof ArtifactError, error.stack);
    assert.match(error.message, message);
    return true;
  });
}

test('an unchanged folder is opened', async () => {
  await opened(() => {});
});

const CHANGES: readonly (readonly [string, (manifest: Record<string, any>) => void, RegExp])[] = [
  ['a group without a tensor', (each) => each['groups'].weights.pop(), /layout/],
  ['a tensor in two groups', (each) => each['groups'].biases.push(each['groups'].weights[0]), /layout/],
  ['statistics without a layer', (each) => each['statistics'].pop(), /layout/],
  ['state of another optimizer', (each) => (each['optimizer'] = 'sgd'), /sgd does not keep exp_avg/],
  ['an average that the graph lacks', (each) => (each['ema'] = !each['ema']), /ema/],
  ['other numbers of rows', (each) => (each['max_targets'] += 1), /'targets' is float32 \(\d+, 6\)/],
  ['other sizes of images', (each) => (each['image_size'][0] += 32), /'images' is uint8/],
  ['another opset', (each) => (each['opset'] += 1), /opset/],
  ['a level more', (each) => {
    each['strides'].push(64);
    each['anchors'].push(each['anchors'][0]);
  }, /'balance' is float32/],
];
for (const [name, change, message] of CHANGES) {
  test(`refused: ${name}`, () => isRefused(opened(change), message));
}

test('refused: a state with a tensor of another shape', async () => {
  const { tensors, about } = parseTensorFile(bytesOf(NAME, STATE), STATE);
  const name = [...tensors.keys()].find((each) => tensors.get(each)!.shape.length === 1 && each !== 'balance')!;
  const other = new Map([...tensors, [name, storedFloats(new Float32Array(1), [1])] as const]);
  await isRefused(opened(() => {}, { [STATE]: formatTensorFile(other, about) }), /has shape \(1\)/);
});

test('refused: tensors in other files, however deep, and compiled code', async () => {
  // A model whose node has a graph, of which a tensor is elsewhere: model, graph, node, attribute,
  // graph, initializer, location.
  const path = [7, 1, 5, 6, 5];
  const deep = path.reduceRight((content, field) => bytesField(field, content), numberField(14, 1n));
  const graph = bytesOf(NAME, TRAIN_STEP);
  await isRefused(opened(() => {}, { [TRAIN_STEP]: concat([graph, deep]) }), /other files/);
  const node = bytesField(7, bytesField(1, bytesField(4, encode('EPContext'))));
  await isRefused(opened(() => {}, { [TRAIN_STEP]: concat([graph, node]) }), /EPContext/);
  await isRefused(opened(() => {}, { 'other.onnx': encode('no model') }), /other\.onnx is not a usable graph/);
});

test('a graph is read as protocol buffers are: the last of equal fields, messages merged', () => {
  const side = (size: bigint): Bytes => bytesField(1, numberField(1, size));
  const tensor = (shape: Bytes): Bytes => bytesField(1, concat([numberField(1, 1n), bytesField(2, shape)]));
  const type = concat([bytesField(2, tensor(side(2n))), bytesField(2, tensor(side(3n)))]);
  const input = bytesField(11, concat([bytesField(1, encode('old')), bytesField(1, encode('x')), type]));
  const opset = bytesField(8, numberField(2, 18n));
  const found = parseOnnx(concat([bytesField(7, input), opset]));
  assert.deepEqual([...found.inputs], [['x', 'float32 (2, 3)']]);
  assert.equal(found.opset, 18);
  assert.throws(() => parseOnnx(bytesField(7, input)), /no opset/);
  assert.throws(() => parseOnnx(concat([opset, bytesField(7, concat([input, input]))])), /are named 'x'/);
});
