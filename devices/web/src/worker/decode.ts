/** Decoding of image files by the browser, to the bytes of their pixels. */

import { DataError } from '../runtime/errors.ts';
import { MAX_IMAGE_PIXELS } from '../runtime/limits.ts';
import type { Image } from '../runtime/resize.ts';

/**
 * Decode an image upright, in RGB; colour profiles are not applied and transparency is dropped, as in
 * Python's runtime.
 *
 * @throws DataError if the file is no image that this browser decodes, or too large.
 */
export async function decodeImage(blob: Blob, name: string): Promise<Image> {
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(blob, {
      imageOrientation: 'from-image',
      colorSpaceConversion: 'none',
      premultiplyAlpha: 'none',
    });
  } catch {
    throw new DataError(`${name}: the image cannot be decoded; replace or remove it`);
  }
  try {
    const { width, height } = bitmap;
    if (width * height > MAX_IMAGE_PIXELS) {
      throw new DataError(
        `${name}: the image has ${width} x ${height} pixels; expected at most ${MAX_IMAGE_PIXELS}`,
      );
    }
    const context = new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true });
    if (!context) throw new DataError(`${name}: this browser has no memory left for the image`);
    context.drawImage(bitmap, 0, 0);
    const { data } = context.getImageData(0, 0, width, height);
    const rgb = new Uint8Array(width * height * 3);
    for (let pixel = 0; pixel < width * height; pixel++) {
      rgb[pixel * 3] = data[pixel * 4]!;
      rgb[pixel * 3 + 1] = data[pixel * 4 + 1]!;
      rgb[pixel * 3 + 2] = data[pixel * 4 + 2]!;
    }
    return { width, height, data: rgb };
  } finally {
    bitmap.close();
  }
}
