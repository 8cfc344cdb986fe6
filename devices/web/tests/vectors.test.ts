/** The test vectors of the formats, which Python and C++ run as well: tests/vectors/README.md. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';

import type { Bytes } from '../src/runtime/bytes.ts';
import { isWhole, makeDetectorFile } from '../src/runtime/detector_file.ts';
import { ArtifactError, TargetError } from '../src/runtime/errors.ts';
import { join as joinVector, sizeOf, split, type Tensor } from '../src/runtime/flat_layout.ts';
import { readListedFiles } from '../src/runtime/folder.ts';
import { type Detection, fit, type Label, mapLabel, place, planes, type Size, unmapBox } from '../src/runtime/letterbox.ts';
import { type FileEntry, type Manifest, readFlatLayout, readManifest } from '../src/runtime/manifest.ts';
import { MetricsAccumulator, type TrueBox } from '../src/runtime/metrics.ts';
import { checkPredictions, suppress } from '../src/runtime/nms.ts';
import { product } from '../src/runtime/numbers.ts';
import type { Image } from '../src/runtime/resize.ts';
import { emaDecay, Schedule } from '../src/runtime/schedule.ts';
import { readState } from '../src/runtime/state.ts';
import { sign } from '../src/runtime/state_digest.ts';
import { keepLargest, padTargets } from '../src/runtime/targets.ts';
import { formatTensorFile, parseTensorFile, type StoredTensor } from '../src/runtime/tensor_file.ts';
import { ROOT } from './data.ts';

const VECTORS = join(ROOT, 'tests/vectors');

interface Named {
  readonly name: string;
  readonly what?: string;
  readonly result?: string;
}

function each<Case extends Named>(file: string, what: string | null, check: (one: Case) => unknown): void {
  const cases = JSON.parse(readFileSync(join(VECTORS, `${file}.json`), 'utf8')) as Case[];
  const chosen = cases.filter((one) => what === null || one.what === what);
  assert.ok(chosen.length);
  for (const one of chosen) test(`${file}: ${what ?? ''} ${one.name}`, async () => void (await check(one)));
}

function file(path: string): Bytes {
  return new Uint8Array(readFileSync(join(VECTORS, path)));
}

function fromHex(text: string): Bytes {
  return new Uint8Array(Buffer.from(text, 'hex'));
}

function floatsOf(bytes: Uint8Array): Float32Array {
  return new Float32Array(new Uint8Array(bytes).buffer);
}

async function isRefused(act: () => unknown, reason: string): Promise<void> {
  await assert.rejects(
    async () => act(),
    (error: Error) => {
      assert.ok(error instanceof ArtifactError || error instanceof TargetError, error.stack);
      assert.equal(error.reason, reason, error.message);
      return true;
    },
  );
}

function isNear(got: number, expected: number, relative: number): void {
  assert.ok(Math.abs(got - expected) <= relative * Math.abs(expected) + 1e-15, `${got}, expected ${expected}`);
}

interface StateCase extends Named {
  readonly file: string;
  readonly result: string;
  readonly canonical?: boolean;
  readonly metadata: Readonly<Record<string, string>>;
  readonly tensors: readonly { name: string; dtype: string; shape: number[]; hex: string }[];
}

each<StateCase>('states', null, async (one) => {
  const content = file(one.file);
  if (one.canonical !== undefined) {
    const tensors = new Map(
      one.tensors.map(({ name, hex, ...tensor }): [string, StoredTensor] => [name, { ...tensor, content: fromHex(hex) }]),
    );
    const held = parseTensorFile(content, one.file);
    const { sha256: checksum, ...metadata } = Object.fromEntries(held.about);
    assert.deepEqual(metadata, one.metadata);
    assert.deepEqual(held.tensors, tensors);
    if (one.metadata['format'] === 'exportloss-state/2') {
      const signed = await sign(tensors, new Map(Object.entries(one.metadata)));
      assert.equal(signed.get('sha256'), checksum);
      const written = Buffer.from(formatTensorFile(tensors, signed));
      assert.equal(written.equals(content), one.canonical);
    }
  }
  if (one.result !== 'accept') return isRefused(() => readState(content, one.file), one.result);
  const state = await readState(content, one.file);
  assert.equal(state.updates, Number(one.metadata['updates']));
  assert.equal(state.skipped, Number(one.metadata['skipped'] ?? 0));
  return undefined;
});

interface ManifestCase extends Named {
  readonly file: string;
  readonly result: string;
  readonly values: Readonly<Record<string, unknown>>;
}

/** A manifest under the names of its file. */
function inFile(manifest: Manifest): Record<string, unknown> {
  const { imageSize, batchSize, maxTargets, lossLayout, layout, files, ...others } = manifest;
  return {
    ...others,
    image_size: imageSize,
    batch_size: batchSize,
    max_targets: maxTargets,
    loss_layout: lossLayout,
    layout: layout && {
      parameters: layout.parameters,
      statistics: layout.statistics,
      memories: layout.optimizerState,
    },
    files: Object.fromEntries(files),
    ...(layout && { parameters_size: sizeOf(layout.parameters), statistics_size: sizeOf(layout.statistics) }),
  };
}

each<ManifestCase>('manifests', null, async (one) => {
  const content = file(one.file);
  if (one.result !== 'accept') return isRefused(() => readManifest(content), one.result);
  assert.deepEqual(inFile(await readManifest(content)), one.values);
  return undefined;
});

interface FolderCase extends Named {
  readonly listed: Readonly<Record<string, FileEntry>>;
  readonly held: Readonly<Record<string, string>>;
  readonly result: string;
}

each<FolderCase>('folders', null, async ({ listed, held, result }) => {
  const source = { read: async (name: string) => (name in held ? fromHex(held[name]!) : null) };
  const open = (): Promise<Map<string, Bytes>> => readListedFiles(source, new Map(Object.entries(listed)));
  if (result !== 'accept') return isRefused(open, result);
  assert.deepEqual([...(await open()).keys()], Object.keys(listed));
  return undefined;
});

interface LayoutCase extends Named {
  readonly entries: unknown;
  readonly sizes: number[];
  readonly offsets: number[];
  readonly size: number;
  readonly vector: number[];
  readonly tensors: Readonly<Record<string, unknown>>;
}

function nested({ shape, data }: Tensor): unknown {
  if (!shape.length) return data[0];
  const [count, ...rest] = shape as [number, ...number[]];
  const size = product(rest);
  return Array.from({ length: count }, (_, index) =>
    nested({ shape: rest, data: data.slice(index * size, (index + 1) * size) }),
  );
}

each<LayoutCase>('layouts', null, (one) => {
  if (one.result !== 'accept') {
    assert.throws(() => readFlatLayout(one.entries));
    return;
  }
  const layout = readFlatLayout(one.entries);
  assert.deepEqual(layout.map(({ shape }) => product(shape)), one.sizes);
  assert.deepEqual(layout.map(({ offset }) => offset), one.offsets);
  assert.equal(sizeOf(layout), one.size);
  const tensors = split(layout, Float32Array.from(one.vector));
  assert.deepEqual(Object.fromEntries([...tensors].map(([name, tensor]) => [name, nested(tensor)])), one.tensors);
  assert.deepEqual([...joinVector(layout, tensors)], one.vector);
});

interface TargetCase extends Named {
  readonly rows: readonly (readonly (number | string)[])[];
  readonly max_targets: number;
  readonly batch_size: number;
  readonly num_classes: number;
  readonly overflow?: string;
  readonly padded: readonly (readonly number[])[];
  readonly dropped: number;
  readonly problems?: readonly { row: number; column: string; kind: string }[];
}

const KINDS = { 'not-finite': 'a finite number', 'not-whole': 'a whole number', range: 'expected' };

each<TargetCase>('targets', null, async (one) => {
  const rows = one.rows.map((row) => row.map(Number));
  const limits = { maxTargets: one.max_targets, batchSize: one.batch_size, numClasses: one.num_classes };
  const pad = (): { padded: Float32Array; dropped: number } => {
    if (one.overflow !== 'keep_largest') return { padded: padTargets(rows, limits), dropped: 0 };
    padTargets(rows, { ...limits, maxTargets: Math.max(rows.length, 1) });
    const { kept, dropped } = keepLargest(rows, one.max_targets);
    return { padded: padTargets(kept, limits), dropped };
  };
  if (one.result === 'accept') {
    const { padded, dropped } = pad();
    assert.deepEqual(padded, Float32Array.from(one.padded.flat())); // strict: -0 is not 0
    assert.equal(dropped, one.dropped);
    return;
  }
  await isRefused(pad, one.result!);
  try {
    pad();
  } catch (error) {
    const lines = (error as Error).message.split('\n').map((line) => line.trim());
    const said = lines.filter((line) => /^row \d/.test(line));
    assert.equal(said.length, one.problems?.length ?? 0);
    one.problems?.forEach(({ row, column, kind }, index) => {
      assert.ok(said[index]!.startsWith(`row ${row}: ${column} is `), said[index]);
      const found = Object.entries(KINDS).find(([, text]) => said[index]!.includes(text));
      assert.equal(found?.[0], kind);
    });
  }
});

interface ImageCase extends Named {
  readonly what: string;
  readonly image: string;
  readonly result: string;
  readonly source: Size;
  readonly size: Size;
  readonly scale_up?: boolean;
  readonly color?: number;
  readonly scaled: Size;
  readonly pad: Size;
  readonly ratio: Size;
  readonly labels: readonly Label[];
  readonly mapped_labels: readonly Label[];
  readonly boxes: readonly Detection[];
  readonly unmapped_boxes: readonly Detection[];
}

for (const what of ['detection', 'training', 'validation']) {
  each<ImageCase>('images', what, (one) => {
    const [height, width] = one.source;
    const box = fit(one.source, one.size, { truncate: what !== 'detection', scaleUp: one.scale_up ?? true });
    assert.deepEqual([box.scaled, box.pad, box.ratio], [one.scaled, one.pad, one.ratio]);
    const image: Image = { height, width, data: file(one.image) };
    const options = { area: what === 'validation', ...(one.color !== undefined && { color: one.color }) };
    assert.ok(Buffer.from(place(image, box, options).data).equals(file(one.result)));
    assert.deepEqual(one.labels.map((label) => mapLabel(label, box)), one.mapped_labels);
    // Confidence and class are kept as they are; the vectors have them in float32.
    const unmapped = one.boxes.map((found) => unmapBox(found, box).map(Math.fround));
    assert.deepEqual(unmapped, one.unmapped_boxes);
  });
}

each<Named & { readonly hex: string }>('images', 'pixels', ({ hex }) => {
  const scaled = Float32Array.from({ length: 256 }, (_, value) => Math.fround(value / 255));
  assert.deepEqual(scaled, floatsOf(fromHex(hex)));
});

each<Named & { readonly hex: string; readonly planes: string; readonly source: Size }>('images', 'planes', (one) => {
  const [height, width] = one.source;
  assert.deepEqual(planes({ height, width, data: fromHex(one.hex) }), fromHex(one.planes));
});

interface ScheduleCase extends Named {
  readonly epochs: number;
  readonly batches: number;
  readonly batch_size: number;
  readonly optimizer: string;
  readonly cosine: boolean;
  readonly nominal_batch: number;
  readonly config: Readonly<Record<string, number>>;
  readonly weight_decay: number;
  readonly warmup_batches: number;
  readonly steps: readonly (readonly [number, number, number, number, number, boolean])[];
}

each<ScheduleCase>('schedules', 'schedule', (one) => {
  const { config, epochs, batches, optimizer, cosine } = one;
  const schedule = new Schedule({
    epochs,
    batches,
    batchSize: one.batch_size,
    rates: {
      lr0: config['lr0']!,
      lrf: config['lrf']!,
      momentum: config['momentum']!,
      weightDecay: config['weight_decay']!,
      warmupEpochs: config['warmup_epochs']!,
      warmupMomentum: config['warmup_momentum']!,
      warmupBiasLr: config['warmup_bias_lr']!,
    },
    optimizer,
    cosine,
    nominalBatch: one.nominal_batch,
  });
  assert.equal(schedule.warmupBatches, one.warmup_batches);
  isNear(schedule.weightDecay, one.weight_decay, 1e-12);
  const planned = Array.from({ length: epochs }, (_, epoch) => schedule.steps(epoch)).flat();
  assert.equal(planned.length, one.steps.length);
  planned.forEach((step, index) => {
    const [weights, norms, biases, momentum, accumulate, update] = one.steps[index]!;
    assert.deepEqual([step.accumulate, step.update], [accumulate, update]);
    [...step.lr, step.momentum].forEach((value, place) => {
      isNear(value, [weights, norms, biases, momentum][place]!, 1e-12);
    });
  });
});

each<Named & { readonly updates: number[]; readonly decays: number[] }>('schedules', 'ema', (one) => {
  one.updates.forEach((updates, index) => isNear(emaDecay(updates), one.decays[index]!, 1e-12));
});

interface NmsCase extends Named {
  readonly predictions: string;
  readonly shape: readonly [number, number, number];
  readonly conf_thres: number;
  readonly iou_thres: number;
  readonly max_det: number;
  readonly agnostic: boolean;
  readonly multi_label: boolean;
  readonly classes: readonly number[] | null;
  readonly max_candidates: number;
  readonly usable: boolean;
  readonly kept: readonly (readonly Detection[])[];
}

each<NmsCase>('nms', null, (one) => {
  const predictions = floatsOf(file(one.predictions));
  const [batch, rows, columns] = one.shape;
  const images = Array.from({ length: batch }, (_, index) =>
    predictions.slice(index * rows * columns, (index + 1) * rows * columns),
  );
  const check = (): void => checkPredictions(predictions, columns - 5);
  if (one.usable) check();
  else assert.throws(check, ArtifactError);
  const kept = images.map((image) =>
    suppress(image, columns - 5, {
      confidence: one.conf_thres,
      iou: one.iou_thres,
      mostDetections: one.max_det,
      agnostic: one.agnostic,
      multiLabel: one.multi_label,
      classes: one.classes,
      mostCandidates: one.max_candidates,
    }),
  );
  assert.deepEqual(kept, one.kept);
});

interface MetricsCase extends Named {
  readonly num_classes: number;
  readonly max_det: number;
  readonly images: readonly { detections: readonly Detection[]; labels: readonly TrueBox[] }[];
  readonly metrics: Readonly<Record<string, number>>;
  readonly ap50_95: Readonly<Record<string, number>>;
}

each<MetricsCase>('metrics', null, (one) => {
  const metrics = new MetricsAccumulator(one.num_classes, one.max_det);
  for (const { detections, labels } of one.images) metrics.add(detections, labels);
  const { precision, recall, confidence, map50, map5095, classes } = metrics.result();
  const found: Record<string, number> = { precision, recall, confidence, map50, map50_95: map5095 };
  assert.deepEqual(Object.keys(one.metrics).sort(), Object.keys(found).sort());
  for (const [name, value] of Object.entries(one.metrics)) isNear(found[name]!, value, 1e-9);
  assert.deepEqual(classes.map(({ index }) => String(index)), Object.keys(one.ap50_95));
  for (const { index, ap5095 } of classes) isNear(ap5095, one.ap50_95[String(index)]!, 1e-9);
});

interface DetectorCase extends Named {
  readonly file: string;
  readonly weights: readonly { name: string; shape: number[]; hex: string }[];
  readonly result: string;
  readonly whole: boolean;
}

each<DetectorCase>('detectors', 'written', async (one) => {
  const weights = new Map(one.weights.map(({ name, hex }) => [name, floatsOf(fromHex(hex))] as const));
  const written = await makeDetectorFile(file(one.file), weights);
  assert.ok(Buffer.from(written).equals(file(one.result)));
});

each<DetectorCase>('detectors', 'checksum', async (one) => {
  assert.equal(await isWhole(file(one.file)), one.whole);
});
