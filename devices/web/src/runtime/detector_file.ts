/**
 * A detector as a plain ONNX file: the exported graph with the trained weights in it.
 *
 * Protocol buffers merge: when the bytes of two messages are joined, their embedded messages are
 * merged and their repeated fields joined. So appending a model that holds only initializers adds
 * them to the graph.
 */

import { type Bytes, concat, decode, encode, equal, sha256 } from './bytes.ts';
import { ArtifactError } from './errors.ts';
import { bytesField, fields, numberField, type Value } from './protobuf.ts';

// Field numbers of onnx.proto.
const MODEL_GRAPH = 7;
const MODEL_METADATA = 14;
const GRAPH_INITIALIZER = 5;
const GRAPH_INPUT = 11;
const VALUE_NAME = 1;
const TENSOR_DIMS = 1;
const TENSOR_DATA_TYPE = 2;
const TENSOR_NAME = 8;
const TENSOR_RAW_DATA = 9;
const FLOAT = 1n; // TensorProto.DataType

/**
 * Return the detector's file, with its checksum.
 *
 * @param graph Content of `inference.onnx`.
 * @param weights Flat vectors by the names of the graph's inputs.
 * @throws ArtifactError if the graph is not an ONNX file.
 */
export async function makeDetectorFile(
  graph: Uint8Array,
  weights: ReadonlyMap<string, Float32Array>,
): Promise<Bytes> {
  try {
    return await withChecksum(withInitializers(graph, weights));
  } catch (error) {
    throw new ArtifactError(`inference.onnx is not a usable graph: ${(error as Error).message}`);
  }
}

/** Add initializers to a model's graph, whose inputs of those names are removed. */
function withInitializers(model: Uint8Array, weights: ReadonlyMap<string, Float32Array>): Bytes {
  const kept = rewritten(model, (field, value) =>
    field === MODEL_GRAPH ? withoutInputs(value, weights) : value,
  );
  const initializers = [...weights].map(([name, vector]) =>
    bytesField(GRAPH_INITIALIZER, tensor(name, vector)),
  );
  return concat([kept, bytesField(MODEL_GRAPH, concat(initializers))]);
}

function withoutInputs(graph: Uint8Array, weights: ReadonlyMap<string, unknown>): Bytes {
  return rewritten(graph, (field, value) =>
    field === GRAPH_INPUT && weights.has(nameOf(value)) ? null : value,
  );
}

/** Return a message with rewritten fields, without those for which `rewrite` returns null. */
function rewritten(
  message: Uint8Array,
  rewrite: (field: number, value: Uint8Array) => Uint8Array | null,
): Bytes {
  const parts: Uint8Array[] = [];
  for (const [field, value] of fields(message)) {
    if (typeof value === 'bigint') parts.push(numberField(field, value));
    else if (value) {
      const content = rewrite(field, value);
      if (content) parts.push(bytesField(field, content));
    }
  }
  return concat(parts);
}

function nameOf(valueInfo: Uint8Array): string {
  const isName = (entry: readonly [number, Value]): boolean => entry[0] === VALUE_NAME;
  const names = [...fields(valueInfo)].filter(isName).map(([, value]) => value);
  return names.map((name) => (name instanceof Uint8Array ? decode(name) : '')).join('');
}

function tensor(name: string, vector: Float32Array): Bytes {
  return concat([
    numberField(TENSOR_DIMS, BigInt(vector.length)),
    numberField(TENSOR_DATA_TYPE, FLOAT),
    bytesField(TENSOR_NAME, encode(name)),
    bytesField(TENSOR_RAW_DATA, new Uint8Array(vector.buffer, vector.byteOffset, vector.byteLength)),
  ]);
}

/** Put a model's SHA-256 before it, as an entry of its metadata. */
async function withChecksum(model: Bytes): Promise<Bytes> {
  return concat([checksum(await sha256(model)), model]);
}

/**
 * Return whether an ONNX file matches its checksum; true for a file without one.
 *
 * Other writers begin a model with its first field rather than its metadata, and without such a key.
 * Either of the two tells a file with a checksum, so no flipped bit can hide that.
 */
export async function isWhole(content: Uint8Array): Promise<boolean> {
  const { length } = checksum('0'.repeat(64));
  const found = content.subarray(0, length);
  const hasKey = String.fromCharCode(...found).includes('sha256');
  if (found[0] !== checksum('')[0] && !hasKey) return true;
  return equal(found, checksum(await sha256(content.subarray(length))));
}

function checksum(digest: string): Bytes {
  const entry = concat([bytesField(1, encode('sha256')), bytesField(2, encode(digest))]);
  return bytesField(MODEL_METADATA, entry);
}
