/** The loss curve: each step's loss, and a smoothed line. */

import { color, sized } from './dom.ts';

const LEFT = 46; // CSS pixels for the numbers of the axis
const BELOW = 22;
const ABOVE = 8;
const SMOOTHING = 0.85; // fraction of the smoothed loss that stays from step to step

/** Draw the losses per image of the steps so far; a text says the same to those who do not see it. */
export function drawCurve(canvas: HTMLCanvasElement, losses: readonly number[], planned: number): void {
  const { clientWidth: width, clientHeight: height } = canvas;
  const context = sized(canvas, width, height);
  const finite = losses.filter(Number.isFinite);
  const most = Math.max(...finite, 0) * 1.1 || 1;
  const least = 0;
  const x = (step: number): number => LEFT + ((width - LEFT - 8) * step) / Math.max(planned - 1, 1);
  const y = (loss: number): number =>
    ABOVE + (height - ABOVE - BELOW) * (1 - (loss - least) / (most - least));
  drawAxes(context, { width, height, most, planned, x, y });
  line(context, losses, x, y, `${color('--accent')}`, 1, 0.45);
  line(context, smoothed(losses), x, y, color('--accent'), 2.5, 1);
  canvas.setAttribute('aria-label', describe(losses, planned));
}

export function smoothed(losses: readonly number[]): number[] {
  let value = losses.find(Number.isFinite) ?? 0;
  return losses.map((loss) => {
    if (Number.isFinite(loss)) value = SMOOTHING * value + (1 - SMOOTHING) * loss;
    return value;
  });
}

interface Frame {
  readonly width: number;
  readonly height: number;
  readonly most: number;
  readonly planned: number;
  readonly x: (step: number) => number;
  readonly y: (loss: number) => number;
}

function drawAxes(context: CanvasRenderingContext2D, frame: Frame): void {
  context.font = '12px system-ui, sans-serif';
  context.fillStyle = color('--quiet');
  context.strokeStyle = color('--line');
  context.lineWidth = 1;
  context.textAlign = 'right';
  context.textBaseline = 'middle';
  for (let tick = 0; tick <= 4; tick++) {
    const loss = (frame.most * tick) / 4;
    context.fillText(loss.toPrecision(2), LEFT - 6, frame.y(loss));
    context.beginPath();
    context.moveTo(LEFT, frame.y(loss));
    context.lineTo(frame.width - 8, frame.y(loss));
    context.stroke();
  }
  context.textBaseline = 'bottom';
  context.textAlign = 'left';
  context.fillText('step 1', LEFT, frame.height - 2);
  context.textAlign = 'right';
  context.fillText(String(frame.planned), frame.width - 8, frame.height - 2);
  context.textAlign = 'center';
  context.fillText('loss per image', (LEFT + frame.width) / 2, frame.height - 2);
}

function line(
  context: CanvasRenderingContext2D,
  values: readonly number[],
  x: (step: number) => number,
  y: (loss: number) => number,
  stroke: string,
  width: number,
  alpha: number,
): void {
  context.strokeStyle = stroke;
  context.lineWidth = width;
  context.lineJoin = 'round';
  context.globalAlpha = alpha;
  context.beginPath();
  values.forEach((value, step) => {
    if (Number.isFinite(value)) context.lineTo(x(step), y(value));
  });
  context.stroke();
  context.globalAlpha = 1;
}

function describe(losses: readonly number[], planned: number): string {
  if (!losses.length) return 'Loss curve: no steps yet';
  const [first, last] = [losses[0]!, losses.at(-1)!];
  return (
    `Loss curve: ${losses.length} of ${planned} steps, from ${first.toPrecision(3)} to ` +
    `${last.toPrecision(3)} per image`
  );
}
