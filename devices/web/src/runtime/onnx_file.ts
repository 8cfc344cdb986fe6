/** Opset, inputs and outputs of an ONNX file, read before an engine opens it. */

import { decode } from './bytes.ts';
import { excerpt } from './errors.ts';
import { fields } from './protobuf.ts';

// Field numbers of onnx.proto.
const [MODEL_GRAPH, MODEL_OPSET] = [7, 8];
const [GRAPH_INPUT, GRAPH_OUTPUT] = [11, 12];
const NODE_OPERATOR = 4;
const [TENSOR_EXTERNAL_DATA, TENSOR_LOCATION] = [13, 14];
const [VALUE_NAME, VALUE_TYPE] = [1, 2];
const TYPE_TENSOR = 1;
const TYPES = [1, 4, 5, 7, 8, 9]; // alternatives, of which the last one counts
const [TENSOR_ELEMENT, TENSOR_SHAPE, SHAPE_DIMENSION] = [1, 2, 1];

// Per message, its fields that are messages and may contain tensors.
const CHILDREN: Readonly<Record<string, Readonly<Record<number, string>>>> = {
  model: { 7: 'graph', 20: 'training', 25: 'function' },
  training: { 1: 'graph', 2: 'graph' },
  function: { 7: 'node', 11: 'attribute' },
  graph: { 1: 'node', 5: 'tensor', 15: 'sparse' },
  node: { 5: 'attribute' },
  attribute: { 5: 'tensor', 6: 'graph', 10: 'tensor', 11: 'graph', 22: 'sparse', 23: 'sparse' },
  sparse: { 1: 'tensor', 2: 'tensor' },
  tensor: {},
};
const DEEPEST = 100; // levels of nested messages
const COMPILED = 'EPContext'; // an operator that may name a file of compiled code

const NAMES: Readonly<Record<string, string>> = { 1: 'float32', 2: 'uint8', 9: 'bool' };

export interface OnnxFile {
  readonly opset: number; // of the domain ai.onnx
  readonly inputs: ReadonlyMap<string, string>; // type and shape by name, such as `float32 (8, 6)`
  readonly outputs: ReadonlyMap<string, string>;
}

/** Return type and shape of an input or output, in the words of `parseOnnx`. */
export function described(type: string, shape: readonly number[]): string {
  return `${type} (${shape.join(', ')})`;
}

/**
 * Read a model.
 *
 * @throws Error if the content is no model, keeps tensors or compiled code in other files, or two
 *   inputs or outputs have the same name.
 */
export function parseOnnx(content: Uint8Array): OnnxFile {
  refuseOtherFiles(content, 'model', 0);
  let opset = 0;
  const values = new Map<number, Map<string, string>>([
    [GRAPH_INPUT, new Map()],
    [GRAPH_OUTPUT, new Map()],
  ]);
  for (const [field, message] of messages(content)) {
    if (field === MODEL_OPSET) opset = opsetOf(message) ?? opset;
    if (field !== MODEL_GRAPH) continue;
    for (const [place, value] of messages(message)) {
      const found = values.get(place);
      if (!found) continue;
      const name = textOf(value, VALUE_NAME);
      if (found.has(name)) throw new Error(`two inputs or outputs are named '${excerpt(name)}'`);
      found.set(name, typeOf(merged(value, VALUE_TYPE)));
    }
  }
  if (!opset) throw new Error('it has no opset');
  return { opset, inputs: values.get(GRAPH_INPUT)!, outputs: values.get(GRAPH_OUTPUT)! };
}

function refuseOtherFiles(message: Uint8Array, kind: string, depth: number): void {
  if (depth > DEEPEST) throw new Error(`its messages are nested more than ${DEEPEST} deep`);
  const children = CHILDREN[kind]!;
  for (const [field, value] of fields(message)) {
    const isElsewhere = field === TENSOR_EXTERNAL_DATA || (field === TENSOR_LOCATION && Boolean(value));
    if (kind === 'tensor' && isElsewhere) throw new Error('it keeps tensors in other files');
    if (!(value instanceof Uint8Array)) continue;
    const isOperator = kind === 'node' && field === NODE_OPERATOR && value.length === COMPILED.length;
    if (isOperator && String.fromCharCode(...value) === COMPILED) {
      throw new Error('it holds code compiled for a device (EPContext)');
    }
    const child = children[field];
    if (child !== undefined) refuseOtherFiles(value, child, depth + 1);
  }
}

function* messages(message: Uint8Array): Generator<readonly [number, Uint8Array]> {
  for (const [field, value] of fields(message)) {
    if (value instanceof Uint8Array) yield [field, value];
  }
}

/** Return an embedded message with its repetitions joined, which merges them; null without any. */
function merged(message: Uint8Array, wanted: number): Uint8Array | null {
  const parts = [...messages(message)].filter(([field]) => field === wanted);
  return parts.length ? joined(parts.map(([, value]) => value)) : null;
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  return parts.length === 1 ? parts[0]! : Uint8Array.from(parts.flatMap((part) => [...part]));
}

function textOf(message: Uint8Array, wanted: number): string {
  const texts = [...messages(message)].filter(([field]) => field === wanted);
  return texts.length ? decode(texts.at(-1)![1]) : '';
}

/** Return the opset that an entry imports; null for another domain than ai.onnx. */
function opsetOf(message: Uint8Array): number | null {
  if (!['', 'ai.onnx'].includes(textOf(message, 1))) return null;
  return Number(numberOf(message, 2));
}

function numberOf(message: Uint8Array, wanted: number): bigint {
  let found = 0n;
  for (const [field, value] of fields(message)) {
    if (field === wanted && typeof value === 'bigint') found = value;
  }
  return found;
}

function typeOf(type: Uint8Array | null): string {
  let parts: Uint8Array[] = [];
  let last = 0;
  for (const [kind, value] of messages(type ?? new Uint8Array())) {
    if (!TYPES.includes(kind)) continue;
    parts = kind === last ? [...parts, value] : [value];
    last = kind;
  }
  if (last !== TYPE_TENSOR) return 'not a tensor';
  const tensor = joined(parts);
  const element = String(numberOf(tensor, TENSOR_ELEMENT));
  const name = NAMES[element] ?? `type ${element}`;
  const shape = merged(tensor, TENSOR_SHAPE);
  if (!shape) return `${name} of any shape`;
  const sides = [...messages(shape)].filter(([field]) => field === SHAPE_DIMENSION);
  return `${name} (${sides.map(([, side]) => sideOf(side)).join(', ')})`;
}

/** Return a size, or the name of a variable one in quotes. */
function sideOf(dimension: Uint8Array): string {
  let side = "''";
  for (const [field, value] of fields(dimension)) {
    if (field === 1 && typeof value === 'bigint') side = String(BigInt.asIntN(64, value));
    if (field === 2 && value instanceof Uint8Array) side = `'${decode(value)}'`;
  }
  return side;
}
