/** Boxes drawn over an image. */

import { clip } from '../runtime/numbers.ts';

/** A box in the canvas's pixels. */
export interface Drawn {
  readonly corners: readonly [number, number, number, number]; // x1, y1, x2, y2
  readonly category: number;
  readonly text: string;
  readonly isChosen?: boolean;
}

/** Colours that differ in lightness as well as in hue; classes take turns. */
const COLORS = [
  '#0072b2', '#d55e00', '#009e73', '#cc79a7', '#b58900', '#56b4e9', '#7b3294', '#1b7837',
  '#a50026', '#4d4d4d',
] as const;

export function colorOf(category: number): string {
  return COLORS[category % COLORS.length]!;
}

export function drawBoxes(context: CanvasRenderingContext2D, boxes: readonly Drawn[], width: number): void {
  context.font = '600 12px system-ui, sans-serif';
  context.textBaseline = 'top';
  context.textAlign = 'left';
  for (const { corners, category, text, isChosen } of boxes) {
    const [x1, y1, x2, y2] = corners;
    context.lineWidth = isChosen ? 3 : 2;
    context.strokeStyle = 'rgb(255 255 255 / 75%)';
    context.strokeRect(x1 - 1, y1 - 1, x2 - x1 + 2, y2 - y1 + 2);
    context.strokeStyle = colorOf(category);
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    const wide = context.measureText(text).width + 6;
    const left = clip(x1 - 1, 0, Math.max(width - wide, 0));
    const top = Math.max(y1 - 17, 0);
    context.fillStyle = colorOf(category);
    context.fillRect(left, top, wide, 16);
    context.fillStyle = '#ffffff';
    context.fillText(text, left + 3, top + 2);
    if (isChosen) {
      context.fillStyle = colorOf(category);
      for (const x of [x1, x2]) for (const y of [y1, y2]) context.fillRect(x - 4, y - 4, 8, 8);
    }
  }
}
