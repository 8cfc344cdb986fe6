/** YOLO's label files: a line per box, `class x y width height`, fractions of the image. */

import { DataError, excerpt } from '../runtime/errors.ts';
import type { Label } from '../runtime/letterbox.ts';

/**
 * Read a label file; lines that occur twice count once.
 *
 * @param name Name of the file, for messages.
 * @throws DataError if a line is no box; the message names file and line.
 */
export function parseLabels(text: string, name: string, numClasses: number): Label[] {
  const rows = new Map<string, Label>();
  text.replace(/^\ufeff/, '').split(/\r\n|\r|\n/).forEach((line, index) => {
    const columns = line.trim().split(/\s+/).filter(Boolean);
    if (!columns.length) return;
    const where = `${name}:${index + 1}`;
    if (columns.length !== 5) {
      throw new DataError(`${where}: ${columns.length} columns, expected 5 (class x y width height)`);
    }
    const [category, ...sides] = columns.map((column) => Number(column));
    if (!Number.isInteger(category) || category! < 0 || category! >= numClasses) {
      throw new DataError(
        `${where}: class ${excerpt(columns[0]!)}, expected a whole number in [0, ${numClasses})`,
      );
    }
    const values = sides.map(Math.fround);
    const bad = values.findIndex((value, place) => !(value >= 0 && value <= 1) || (place > 1 && value === 0));
    if (bad >= 0) {
      throw new DataError(`${where}: ${excerpt(columns[bad + 1]!)}, expected a fraction of the image, 0 to 1`);
    }
    const row = [category!, ...values] as unknown as Label;
    rows.set(row.join(' '), row);
  });
  return [...rows.values()];
}

/** Return a file's name without folders and suffix: what an image and its labels share. */
export function stemOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1).replace(/\.[^.]*$/, '');
}
