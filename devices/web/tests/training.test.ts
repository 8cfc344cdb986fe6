import assert from 'node:assert/strict';
import { test } from 'node:test';

import * as ort from 'onnxruntime-web';

import { sha256 } from '../src/runtime/bytes.ts';
import { ArtifactError, DataError, DeviceError, TargetError } from '../src/runtime/errors.ts';
import { openArtifact, STATE } from '../src/runtime/folder.ts';
import { checkTraining } from '../src/runtime/self_check.ts';
import { TrainSession } from '../src/runtime/session.ts';
import { readState } from '../src/runtime/state.ts';
import { floats } from '../src/runtime/tensor_file.ts';
import type { TargetRow } from '../src/runtime/targets.ts';
import { assertClose, bytesOf, folderOf, jsonOf, tensorsOf, valuesOf } from './data.ts';

interface Expected {
  readonly settings: { lr: number; momentum: number; weight_decay: number; max_norm: number };
  readonly small: Readonly<Record<string, { losses: number[]; evaluation: number }>>;
}

ort.env.wasm.numThreads = 1;
const expected = jsonOf<Expected>('python.json');
const batches = tensorsOf('batches.safetensors');
const engine = { ort, provider: 'wasm' } as const;

function batch(number: number): { images: Uint8Array; rows: TargetRow[] } {
  const part = (name: string): Float32Array | Uint8Array => {
    const tensor = batches.get(name)!;
    const values = valuesOf(tensor);
    const size = values.length / tensor.shape[0]!;
    return values.slice(number * size, (number + 1) * size);
  };
  const flat = [...part('targets')];
  const rows = Array.from({ length: flat.length / 6 }, (_, row) => flat.slice(row * 6, row * 6 + 6));
  return {
    images: part('images') as Uint8Array,
    rows: rows.filter((row) => row.some(Boolean)) as unknown as TargetRow[],
  };
}

function settings(update: boolean): Parameters<TrainSession['step']>[2] {
  const { lr, momentum, weight_decay: weightDecay, max_norm: maxNorm } = expected.settings;
  return { lr: [lr, lr, lr], momentum, weightDecay, maxNorm, update };
}

function norm(values: ArrayLike<number>): number {
  return Math.sqrt(Array.from(values).reduce((sum, value) => sum + value * value, 0));
}

for (const name of ['small-sgd', 'small-adamw']) {
  test(`${name}: losses, boxes and state are Python's`, async () => {
    const session = await TrainSession.open(await openArtifact(folderOf(name)), engine);
    const losses: number[] = [];
    for (let number = 0; number < batches.get('images')!.shape[0]!; number++) {
      const { images, rows } = batch(number);
      losses.push((await session.step(images, rows, settings(number % 2 === 1))).loss);
    }
    assertClose(losses, expected.small[name]!.losses, 1e-5);
    assert.equal(session.updates, 2);

    const { images, rows } = batch(0);
    const evaluation = await session.evaluate(images, rows);
    assertClose([evaluation.loss], [expected.small[name]!.evaluation], 1e-5);
    const predictions = valuesOf(tensorsOf(`${name}-expected`, 'evaluation.safetensors').get('predictions')!);
    const difference = predictions.map((value, index) => value - evaluation.predictions[index]!);
    assert.ok(norm(difference) < 1e-5 * norm(predictions));

    const saved = await session.save();
    const own = tensorsOf(`${name}-expected`, STATE);
    const state = await readState(saved, 'saved', session.manifest);
    for (const [tensor, { data, shape }] of state.model) {
      const wanted = floats(own.get(tensor)!, tensor);
      assert.deepEqual(shape, own.get(tensor)!.shape);
      assert.ok(norm(wanted.map((value, index) => value - data[index]!)) <= 1e-4 * norm(wanted), tensor);
    }
    await session.close();
  });

  test(`${name}: from Python's state, the files are Python's byte by byte`, async () => {
    const session = await TrainSession.open(await openArtifact(folderOf(name)), engine);
    const content = bytesOf(`${name}-expected`, STATE);
    session.loadState(await readState(content, STATE, session.manifest), STATE);
    assert.equal(session.updates, 2);
    assert.equal(await sha256(await session.exportDetector()), await sha256(bytesOf(`${name}-expected`, 'detector.onnx')));
    assert.equal(await sha256(await session.save()), await sha256(content));
    await session.close();
  });
}

test('a new training takes the weights of a state, and nothing else', async () => {
  const session = await TrainSession.open(await openArtifact(folderOf('small-adamw')), engine);
  const state = await readState(bytesOf('small-adamw-expected', STATE), STATE, session.manifest);
  await session.startFrom(state, STATE);
  const own = await session.state();
  assert.equal(own.updates, 0);
  const trained = [...state.ema.keys()][0]!;
  assert.deepEqual(own.model.get(trained)!.data, state.ema.get(trained)!.data);
  assert.ok([...own.optimizer.values()].every((tensors) => [...tensors.values()].every(({ data }) => !norm(data))));
  await session.close();
});

test('bad batches and foreign states are refused, and change nothing', async () => {
  const session = await TrainSession.open(await openArtifact(folderOf('small-sgd')), engine);
  const before = await sha256(await session.save());
  const { images, rows } = batch(0);
  await assert.rejects(session.step(images.slice(1), rows, settings(true)), DataError);
  await assert.rejects(session.step(images, [[0, 99, 0.5, 0.5, 0.1, 0.1]], settings(true)), TargetError);
  const foreign = await readState(bytesOf('small-adamw-expected', STATE), STATE);
  assert.throws(() => session.loadState(foreign, STATE), ArtifactError);
  assert.equal(await sha256(await session.save()), before);
  const skipped = await session.step(images, rows, { ...settings(true), momentum: NaN });
  assert.equal(skipped.skipped, true);
  assert.deepEqual([session.updates, session.skipped], [0, 1]);
  await session.close();
});

test('the self-check passes a right device and restores the state', async () => {
  const artifact = await openArtifact(folderOf('small-sgd'));
  const session = await TrainSession.open(artifact, engine);
  const reference = await TrainSession.open(artifact, engine);
  const before = await sha256(await session.save());
  const differences = await checkTraining(session, reference, 'the same');
  assert.deepEqual(new Set(differences.map(({ value }) => value)), new Set([0]));
  assert.equal(await sha256(await session.save()), before);

  // A device whose loss is 0.1 % off, as wrong engines were.
  const wrong = Object.create(session) as TrainSession;
  wrong.step = async (...step) => {
    const result = await session.step(...step);
    return { ...result, loss: result.loss * 1.001 };
  };
  wrong.state = () => session.state();
  wrong.loadState = (state, source) => session.loadState(state, source);
  Object.defineProperty(wrong, 'manifest', { value: artifact.manifest });
  await assert.rejects(checkTraining(wrong, reference, 'wrong'), (error: Error) => {
    assert.ok(error instanceof DeviceError);
    assert.match(error.message, /loss 1\.0e-3 off/);
    return true;
  });
});
