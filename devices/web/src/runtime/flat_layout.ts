/** Places of named tensors in the flat vectors of the portable step. */

import { ArtifactError } from './errors.ts';
import { product } from './numbers.ts';

export interface Tensor {
  readonly shape: readonly number[];
  readonly data: Float32Array;
}

export type Tensors = ReadonlyMap<string, Tensor>;

/** A tensor's place; the offset counts elements. */
export interface Place {
  readonly name: string;
  readonly shape: readonly number[];
  readonly offset: number;
}

/** Tensors placed one after the other in a vector, each in row-major order. */
export type FlatLayout = readonly Place[];

export interface StateLayout {
  readonly parameters: FlatLayout;
  readonly statistics: FlatLayout; // empty if none are trained
  readonly optimizerState: readonly string[]; // one vector each
}

export function sizeOf(layout: FlatLayout): number {
  const last = layout.at(-1);
  return last ? last.offset + product(last.shape) : 0;
}

/** Copy tensors into one vector; other tensors of the map are ignored. */
export function join(layout: FlatLayout, tensors: Tensors): Float32Array {
  const vector = new Float32Array(sizeOf(layout));
  for (const { name, offset } of layout) {
    const tensor = tensors.get(name);
    if (!tensor) throw new ArtifactError(`the state lacks tensor '${name}'`);
    vector.set(tensor.data, offset);
  }
  return vector;
}

/** Return copies of the tensors in a vector. */
export function split(layout: FlatLayout, vector: Float32Array): Map<string, Tensor> {
  return new Map(
    layout.map(({ name, shape, offset }) => {
      return [name, { shape, data: vector.slice(offset, offset + product(shape)) }] as const;
    }),
  );
}
