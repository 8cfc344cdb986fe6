/** Arithmetic as Python and numpy have it. */

/** Round to the nearest whole number, halves to the even one. */
export function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return rest < 0.5 ? floor : floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}

export function clip(value: number, least: number, most: number): number {
  return Math.min(Math.max(value, least), most);
}

/** Product of the sizes of a shape; 1 for a scalar. */
export function product(sizes: readonly number[]): number {
  return sizes.reduce((total, size) => total * size, 1);
}

/** `numpy.linspace(start, stop, count)`. */
export function linspace(start: number, stop: number, count: number): Float64Array {
  const step = (stop - start) / (count - 1);
  const values = Float64Array.from({ length: count }, (_, index) => index * step + start);
  values[count - 1] = stop;
  return values;
}

/** Whole number >= 0 that a double holds exactly. */
export function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
