/** The part of Protocol Buffers' encoding that ONNX files need. */

import { type Bytes, concat } from './bytes.ts';

const VARINT = 0;
const FIXED64 = 1;
const LENGTH_DELIMITED = 2;
const FIXED32 = 5;

/** A field's value: a number below 2^64, bytes, or null for a field of fixed size. */
export type Value = bigint | Uint8Array | null;

/** Encode a field whose value is a whole number >= 0. */
export function numberField(field: number, value: bigint): Bytes {
  return concat([varint(BigInt((field << 3) | VARINT)), varint(value)]);
}

/** Encode a field whose value is bytes, a string or a message. */
export function bytesField(field: number, content: Uint8Array): Bytes {
  return concat([
    varint(BigInt((field << 3) | LENGTH_DELIMITED)),
    varint(BigInt(content.length)),
    content,
  ]);
}

/**
 * Yield number and value of each field of a message.
 *
 * Encodings that no writer produces are refused, because readers disagree on them: numbers that are
 * longer than needed, tags over 32 bits, sizes over 31, groups.
 *
 * @throws Error if the content is not a message, or is truncated.
 */
export function* fields(message: Uint8Array): Generator<readonly [number, Value]> {
  const reader = { message, position: 0 };
  while (reader.position < message.length) {
    const tag = Number(readVarint(reader, 2n ** 32n - 1n));
    const [field, wire] = [Math.floor(tag / 8), tag % 8];
    if (field === 0) throw new Error(`field number 0 at byte ${reader.position}`);
    if (wire === VARINT) {
      yield [field, readVarint(reader, 2n ** 64n - 1n)];
      continue;
    }
    const size = sizeOf(wire, reader);
    const end = reader.position + size;
    if (end > message.length) {
      throw new Error(`field ${field} ends ${end - message.length} bytes too late`);
    }
    yield [field, wire === LENGTH_DELIMITED ? message.subarray(reader.position, end) : null];
    reader.position = end;
  }
}

interface Reader {
  readonly message: Uint8Array;
  position: number;
}

function sizeOf(wire: number, reader: Reader): number {
  if (wire === LENGTH_DELIMITED) return Number(readVarint(reader, 2n ** 31n - 1n));
  if (wire === FIXED64) return 8;
  if (wire === FIXED32) return 4;
  throw new Error(`wire type ${wire} at byte ${reader.position}`);
}

function readVarint(reader: Reader, largest: bigint): bigint {
  let value = 0n;
  for (let index = 0; index < 10; index++) {
    const byte = reader.message[reader.position + index];
    if (byte === undefined) break;
    value |= BigInt(byte & 0x7f) << BigInt(7 * index);
    if (byte < 0x80) {
      if (value > largest || (byte === 0 && index > 0)) {
        throw new Error(`a number at byte ${reader.position} is encoded as no writer does`);
      }
      reader.position += index + 1;
      return value;
    }
  }
  throw new Error(`no number at byte ${reader.position}`);
}

function varint(value: bigint): Bytes {
  const encoded: number[] = [];
  for (; value > 0x7fn; value >>= 7n) encoded.push(Number(value & 0x7fn) | 0x80);
  encoded.push(Number(value));
  return Uint8Array.from(encoded);
}
