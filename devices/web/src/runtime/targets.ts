/** Target rows: checked, then padded to the number of rows that the graph takes. */

import { listed, TargetError, TooManyTargetsError } from './errors.ts';

/** Image, class, centre x, centre y, width, height; the last four are fractions of the image. */
export type TargetRow = readonly [number, number, number, number, number, number];

export const COLUMNS = ['image', 'class', 'x', 'y', 'width', 'height'] as const;
const MOST_NAMED = 20;

export interface TargetLimits {
  readonly maxTargets: number;
  readonly batchSize: number;
  readonly numClasses: number;
}

/**
 * Check target rows and pad them with zero rows, which match nothing.
 *
 * The rows stay in their order: it decides who wins a shared cell.
 *
 * @param rows (n, 6) rows.
 * @returns (maxTargets, 6) values, one row after the other.
 * @throws TargetError if a row cannot be trained on; the message names the bad rows.
 * @throws TooManyTargetsError if there are more rows than `maxTargets`.
 */
export function padTargets(rows: readonly (readonly number[])[], limits: TargetLimits): Float32Array {
  check(rows, limits);
  if (rows.length > limits.maxTargets) {
    throw new TooManyTargetsError(
      `got ${rows.length} target rows, expected at most max_targets, ${limits.maxTargets}; ` +
        'draw fewer boxes, or export with a larger max_targets',
    );
  }
  const padded = new Float32Array(limits.maxTargets * COLUMNS.length);
  rows.forEach((row, index) => padded.set(row, index * COLUMNS.length));
  return padded;
}

/**
 * Keep the rows of largest area, the earlier one if areas are equal, in their order.
 *
 * @returns The kept rows, and the number of rows dropped.
 */
export function keepLargest<Row extends readonly number[]>(
  rows: readonly Row[],
  most: number,
): { kept: Row[]; dropped: number } {
  const area = (row: Row): number => row[4]! * row[5]!;
  const largest = rows
    .map((row, index) => ({ row, index }))
    .sort((a, b) => area(b.row) - area(a.row) || a.index - b.index)
    .slice(0, most)
    .sort((a, b) => a.index - b.index);
  return { kept: largest.map(({ row }) => row), dropped: rows.length - largest.length };
}

function check(rows: readonly (readonly number[])[], limits: TargetLimits): void {
  const ragged = rows.find((row) => row.length !== COLUMNS.length);
  if (ragged) {
    throw new TargetError(
      `a target row has ${ragged.length} values; expected shape (n, 6) with columns ` +
        COLUMNS.join(', '),
      'shape',
    );
  }
  const problems: string[] = [];
  rows.forEach((row, index) => {
    const problem = problemOf(row, limits);
    if (problem) problems.push(`row ${index}: ${problem}`);
  });
  if (problems.length) {
    throw new TargetError(
      `${problems.length} of ${rows.length} target rows cannot be trained on:\n  ` +
        listed(problems, MOST_NAMED, '\n  '),
    );
  }
}

function problemOf(row: readonly number[], limits: TargetLimits): string | null {
  for (const [place, column] of COLUMNS.entries()) {
    const value = row[place]!;
    if (!Number.isFinite(value)) return `${column} is ${value}; expected a finite number`;
    if (place < 2) {
      const limit = place === 0 ? limits.batchSize : limits.numClasses;
      if (!Number.isInteger(value)) return `${column} is ${value}; expected a whole number`;
      if (value < 0 || value >= limit) return `${column} is ${value}; expected 0 to ${limit - 1}`;
    } else if (value < 0 || value > 1) {
      const kind = value < 0 ? 'negative' : 'over 1';
      return `${column} is ${value}, ${kind}; expected a fraction of the image, 0 to 1`;
    }
  }
  return null;
}
