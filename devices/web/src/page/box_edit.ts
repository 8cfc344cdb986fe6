/** Boxes as they are drawn: moved, resized and hit, in fractions of the image. */

import type { Label } from '../runtime/letterbox.ts';
import { clip } from '../runtime/numbers.ts';

export type Point = readonly [number, number];

/** A corner of a box: which side it is on, -1 left or top, 1 right or bottom. */
export type Corner = readonly [-1 | 1, -1 | 1];

export type Hit = { readonly index: number; readonly corner: Corner | null } | null;

const CORNERS: readonly Corner[] = [[-1, -1], [1, -1], [-1, 1], [1, 1]];

/** Return a box between two points, which may lie outside the image. */
export function between(category: number, from: Point, to: Point): Label {
  const [x1, x2] = [clip(from[0], 0, 1), clip(to[0], 0, 1)].sort((a, b) => a - b) as [number, number];
  const [y1, y2] = [clip(from[1], 0, 1), clip(to[1], 0, 1)].sort((a, b) => a - b) as [number, number];
  return rounded(category, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1);
}

/** Move a box, at most to the image's border. */
export function moved([category, x, y, width, height]: Label, across: number, down: number): Label {
  return rounded(
    category,
    clip(x + across, width / 2, 1 - width / 2),
    clip(y + down, height / 2, 1 - height / 2),
    width,
    height,
  );
}

/** Put a corner of a box at a point; the opposite corner stays. */
export function resized(label: Label, corner: Corner, to: Point): Label {
  const opposite = cornerOf(label, [-corner[0] as -1 | 1, -corner[1] as -1 | 1]);
  return between(label[0], opposite, to);
}

/** Make a box wider and higher at its right and lower sides. */
export function grown(label: Label, across: number, down: number): Label {
  const [x, y] = cornerOf(label, [1, 1]);
  const [left, top] = cornerOf(label, [-1, -1]);
  return between(label[0], [left, top], [Math.max(x + across, left), Math.max(y + down, top)]);
}

export function cornerOf([, x, y, width, height]: Label, [across, down]: Corner): Point {
  return [x + (across * width) / 2, y + (down * height) / 2];
}

/**
 * Return the box at a point: a corner of the chosen box, otherwise the smallest box around it.
 *
 * @param reach How near a corner counts, as fractions of the image's width and height.
 */
export function hit(labels: readonly Label[], chosen: number, point: Point, reach: Point): Hit {
  const own = labels[chosen];
  if (own) {
    const corner = CORNERS.find((each) => {
      const [x, y] = cornerOf(own, each);
      return Math.abs(x - point[0]) <= reach[0] && Math.abs(y - point[1]) <= reach[1];
    });
    if (corner) return { index: chosen, corner };
  }
  let best: Hit = null;
  let least = Infinity;
  labels.forEach(([, x, y, width, height], index) => {
    const inside = Math.abs(point[0] - x) <= width / 2 && Math.abs(point[1] - y) <= height / 2;
    if (inside && width * height < least) {
      best = { index, corner: null };
      least = width * height;
    }
  });
  return best;
}

/** Return whether a box is large enough to be meant. */
export function isMeant(label: Label, least: Point): boolean {
  return label[3] >= least[0] && label[4] >= least[1];
}

/** Values are float32, as in files and graphs, so that nothing changes on the way. */
function rounded(category: number, ...sides: [number, number, number, number]): Label {
  const [x, y, width, height] = sides.map((side) => Math.fround(clip(side, 0, 1)));
  return [category, x!, y!, width!, height!];
}
