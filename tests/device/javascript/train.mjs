// Trains a portable step and prints the loss of each batch, as JSON.
//
//   node train.mjs RUNTIME ARTIFACT BATCHES
//
// RUNTIME is onnxruntime-node or onnxruntime-web, ARTIFACT a folder that `exportloss export
// --format step` wrote, BATCHES a safetensors file of `images`, (n, B, 3, H, W) uint8, and
// `targets`, (n, max_targets, 6) float32, padded with zero rows.

import { readFileSync } from 'node:fs';

const [runtime, folder, batchesPath] = process.argv.slice(2);
const ort = await import(runtime);
if (ort.env.wasm) ort.env.wasm.numThreads = 1;

// A safetensors file: the length of a JSON header as 8 bytes, the header, the tensors' bytes.
function readSafetensors(path) {
  const bytes = readFileSync(path);
  const start = 8 + Number(bytes.readBigUInt64LE(0));
  const { __metadata__: metadata, ...entries } = JSON.parse(bytes.toString('utf8', 8, start));
  const types = { F32: Float32Array, U8: Uint8Array };
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(entries)) {
    const copy = new Uint8Array(bytes.subarray(start + from, start + to)); // typed arrays are aligned
    tensors[name] = { shape, data: new types[dtype](copy.buffer) };
  }
  return { metadata, tensors };
}

const { layout } = JSON.parse(readFileSync(`${folder}/manifest.json`));
const { metadata, tensors } = readSafetensors(`${folder}/state.safetensors`);

const float = (data, shape) => new ort.Tensor('float32', Float32Array.from(data), shape);

// Named tensors, one after the other in one vector.
function flat(entries, prefix = '') {
  const data = entries.flatMap(({ name }) => [...tensors[prefix + name].data]);
  return float(data, [data.length]);
}

const parameters = flat(layout.parameters);
let state = {
  parameters,
  balance: float(tensors.balance.data, tensors.balance.shape),
  updates: float([metadata.updates], []),
  gradients: float(new Float32Array(parameters.size), parameters.dims),
};
if (layout.statistics.length) state.statistics = flat(layout.statistics);
for (const memory of layout.memories) {
  state[`optimizer_${memory}`] = flat(layout.parameters, `optimizer/${memory}/`);
}
const settings = {
  learning_rates: float([2e-4, 2e-4, 2e-4], [3]), // weights, norms, biases
  momentum: float([0.937], []),
  weight_decay: float([5e-4], []),
  max_norm: float([10], []),
  update: new ort.Tensor('bool', [true], []),
};

const session = await ort.InferenceSession.create(readFileSync(`${folder}/train_step.onnx`));
const { images, targets } = readSafetensors(batchesPath).tensors;
const row = (tensor, step) => {
  const size = tensor.data.length / tensor.shape[0];
  return [tensor.data.subarray(step * size, (step + 1) * size), tensor.shape.slice(1)];
};

const losses = [];
for (let step = 0; step < images.shape[0]; step++) {
  const results = await session.run({
    images: new ort.Tensor('uint8', ...row(images, step)),
    targets: new ort.Tensor('float32', ...row(targets, step)),
    ...settings,
    ...state,
  });
  losses.push(results.loss.data[0]);
  state = Object.fromEntries(Object.keys(state).map((name) => [name, results[`new_${name}`]]));
}
console.log(JSON.stringify(losses));
