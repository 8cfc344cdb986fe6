/** Letterboxing: an image scaled into the fixed size of a graph, and boxes mapped there and back. */

import { clip, roundHalfEven } from './numbers.ts';
import { type Image, resizeArea, resizeLinear } from './resize.ts';

export type Size = readonly [number, number]; // height, width

/** Class, centre x, centre y, width, height; the last four are fractions of the image. */
export type Label = readonly [number, number, number, number, number];

/** x1, y1, x2, y2 in pixels, confidence, class. */
export type Detection = readonly [number, number, number, number, number, number];

export const PADDING = 114; // YOLOv5's grey

/** Position and scale of an image on its canvas; pairs are (vertical, horizontal). */
export interface Letterbox {
  readonly source: Size;
  readonly size: Size;
  readonly scaled: Size;
  readonly ratio: Size; // canvas pixels per image pixel
  readonly pad: Size; // pixels above and to the left
}

/**
 * Scale an image to fit a canvas, keep its aspect ratio, and centre it.
 *
 * @param truncate True to truncate the scaled sides to whole pixels, as YOLOv5 does for training
 *   and validation; false to round them, as it does for detection.
 * @param scaleUp True to enlarge an image that is smaller than the canvas.
 */
export function fit(source: Size, size: Size, { truncate = false, scaleUp = true } = {}): Letterbox {
  const scale = Math.min(size[0] / source[0], size[1] / source[1], scaleUp ? Infinity : 1);
  const whole = truncate ? Math.trunc : roundHalfEven;
  const side = (length: number): number => Math.max(whole(length * scale), 1);
  const scaled = [side(source[0]), side(source[1])] as const;
  return {
    source,
    size,
    scaled,
    ratio: [scaled[0] / source[0], scaled[1] / source[1]],
    pad: [Math.floor((size[0] - scaled[0]) / 2), Math.floor((size[1] - scaled[1]) / 2)],
  };
}

/**
 * Scale an image and place it on grey, of value `color`.
 *
 * @param area True to shrink by the mean over areas, as for validation; enlarging interpolates.
 */
export function place(image: Image, box: Letterbox, { area = false, color = PADDING } = {}): Image {
  const [height, width] = box.size;
  const [scaledHeight, scaledWidth] = box.scaled;
  const shrinks = scaledHeight <= image.height && scaledWidth <= image.width;
  const scaled = (area && shrinks ? resizeArea : resizeLinear)(image, scaledHeight, scaledWidth);
  const data = new Uint8Array(height * width * 3).fill(color);
  for (let row = 0; row < scaledHeight; row++) {
    const line = scaled.data.subarray(row * scaledWidth * 3, (row + 1) * scaledWidth * 3);
    data.set(line, ((row + box.pad[0]) * width + box.pad[1]) * 3);
  }
  return { height, width, data };
}

/** Move a box from the image to the canvas; rounded to float32, as targets are. */
export function mapLabel(label: Label, box: Letterbox): Label {
  const [category, x, y, width, height] = label;
  const scale = [box.ratio[1] * box.source[1], box.ratio[0] * box.source[0]] as const;
  const canvas = [box.size[1], box.size[0]] as const;
  const fraction = (value: number): number => Math.fround(clip(value, 0, 1));
  return [
    category,
    fraction((x * scale[0] + box.pad[1]) / canvas[0]),
    fraction((y * scale[1] + box.pad[0]) / canvas[1]),
    fraction(width * (scale[0] / canvas[0])),
    fraction(height * (scale[1] / canvas[1])),
  ];
}

/** Move a detected box from the canvas to the image, and clip it to it. */
export function unmapBox(found: Detection, box: Letterbox): Detection {
  const across = (value: number): number =>
    Math.fround(clip((value - box.pad[1]) / box.ratio[1], 0, box.source[1]));
  const down = (value: number): number =>
    Math.fround(clip((value - box.pad[0]) / box.ratio[0], 0, box.source[0]));
  return [across(found[0]), down(found[1]), across(found[2]), down(found[3]), found[4], found[5]];
}

/** Return the planes of an image, (3, height, width). */
export function planes(image: Image): Uint8Array {
  const size = image.height * image.width;
  const data = new Uint8Array(3 * size);
  for (let pixel = 0; pixel < size; pixel++) {
    for (let channel = 0; channel < 3; channel++) {
      data[channel * size + pixel] = image.data[pixel * 3 + channel]!;
    }
  }
  return data;
}
