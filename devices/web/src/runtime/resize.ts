/**
 * Resizing to OpenCV's pixels, as Python's runtime does it: linear interpolation in fixed-point
 * arithmetic, and the mean over areas.
 */

import { ConfigError } from './errors.ts';
import { clip, roundHalfEven } from './numbers.ts';

/** RGB, 8 bits: `data` has height * width * 3 values, row by row. */
export interface Image {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array;
}

const BITS = 11; // fraction bits of the fixed-point weights
const ONE = 1 << BITS;

interface Neighbours {
  readonly first: Int32Array;
  readonly second: Int32Array;
  readonly weight: Int32Array; // of the second, in 1 / ONE
}

/** Interpolate linearly between the four nearest pixels, as `cv2.INTER_LINEAR` does for 8 bits. */
export function resizeLinear(image: Image, height: number, width: number): Image {
  checkSize(height, width);
  if (height === image.height && width === image.width) return image;
  const down = neighbours(image.height, height);
  const across = neighbours(image.width, width);
  const data = new Uint8Array(height * width * 3);
  const lines = new Map<number, Int32Array>(); // interpolated along the width; two are kept
  const line = (row: number): Int32Array => {
    const held = lines.get(row);
    if (held) return held;
    const made = interpolate(image, row, across);
    if (lines.size > 1) lines.delete(Math.min(...lines.keys()));
    lines.set(row, made);
    return made;
  };
  for (let y = 0; y < height; y++) {
    const [top, bottom] = [line(down.first[y]!), line(down.second[y]!)];
    const weight = down.weight[y]!;
    const start = y * width * 3;
    for (let index = 0; index < width * 3; index++) {
      const sum = ((top[index]! * (ONE - weight)) >> 16) + ((bottom[index]! * weight) >> 16);
      data[start + index] = (sum + 2) >> 2;
    }
  }
  return { height, width, data };
}

/** Shrink to the mean over the area that each pixel covers, as `cv2.INTER_AREA` does. */
export function resizeArea(image: Image, height: number, width: number): Image {
  checkSize(height, width);
  if (height > image.height || width > image.width) {
    throw new ConfigError(
      `size is ${height} x ${width}; expected at most the image's ${image.height} x ${image.width}`,
    );
  }
  const down = meanOver(Float32Array.from(image.data), 1, image.height, image.width * 3, height);
  const means = meanOver(down, height, image.width, 3, width);
  return { height, width, data: Uint8Array.from(means, roundHalfEven) };
}

function checkSize(height: number, width: number): void {
  if (!(height >= 1 && width >= 1)) {
    throw new ConfigError(`size is ${height} x ${width}; expected at least 1 x 1`);
  }
}

/** Return per output pixel of a line two source indices, and the weight of the second. */
function neighbours(length: number, wanted: number): Neighbours {
  const first = new Int32Array(wanted);
  const second = new Int32Array(wanted);
  const weight = new Int32Array(wanted);
  for (let place = 0; place < wanted; place++) {
    const middle = Math.fround((place + 0.5) * (length / wanted) - 0.5);
    const index = Math.floor(middle);
    if (index >= 0 && index < length - 1) {
      weight[place] = roundHalfEven(Math.fround(Math.fround(middle - index) * ONE));
    }
    first[place] = clip(index, 0, length - 1);
    second[place] = clip(index + 1, 0, length - 1);
  }
  return { first, second, weight };
}

function interpolate(image: Image, row: number, across: Neighbours): Int32Array {
  const width = across.first.length;
  const line = new Int32Array(width * 3);
  const start = row * image.width * 3;
  for (let x = 0; x < width; x++) {
    const left = start + across.first[x]! * 3;
    const right = start + across.second[x]! * 3;
    const weight = across.weight[x]!;
    for (let channel = 0; channel < 3; channel++) {
      const sum = image.data[left + channel]! * (ONE - weight) + image.data[right + channel]! * weight;
      line[x * 3 + channel] = sum >> 4; // so that the products with the second weight fit 32 bits
    }
  }
  return line;
}

/**
 * Average along the middle axis of (outer, held, inner) over `length` equal spans, which may begin
 * and end within a pixel.
 */
function meanOver(
  values: Float32Array,
  outer: number,
  held: number,
  inner: number,
  length: number,
): Float32Array {
  if (held === length) return values;
  const span = held / length;
  const total = new Float32Array(outer * length * inner);
  for (let place = 0; place < length; place++) {
    const start = place * span;
    for (let step = 0; step <= Math.ceil(span); step++) {
      const pixel = Math.trunc(start) + step;
      const covered = Math.min(start + span, pixel + 1) - Math.max(start, pixel);
      const weight = Math.fround(Math.max(covered, 0) / span);
      if (weight === 0) continue;
      const source = Math.min(pixel, held - 1);
      for (let block = 0; block < outer; block++) {
        const from = (block * held + source) * inner;
        const to = (block * length + place) * inner;
        for (let index = 0; index < inner; index++) {
          total[to + index]! += Math.fround(weight * values[from + index]!);
        }
      }
    }
  }
  return total;
}
