/** Before and after: scores, and the detections side by side. */

import type { Detection } from '../runtime/letterbox.ts';
import type { Metrics } from '../runtime/metrics.ts';
import type { Validation } from '../runtime/validate.ts';
import { byId, make } from './dom.ts';
import { drawBoxes } from './draw_boxes.ts';
import type { ProjectImage } from './project.ts';

export interface Judged {
  readonly images: readonly ProjectImage[];
  readonly before: Validation | null;
  readonly after: Validation | null;
  readonly names: readonly string[];
}

/** Show scores and detections; nothing if there are none yet. */
export async function showResult(judged: Judged, confidence: number): Promise<void> {
  const { images, before, after } = judged;
  byId('confidence-field').hidden = !before;
  if (!before) {
    byId('judged').textContent = 'Appears after the training.';
    byId('scores').replaceChildren();
    byId('pairs').replaceChildren();
    return;
  }
  const isHeldOut = images.every((image) => image.isValidation);
  byId('judged').textContent = isHeldOut
    ? `On ${images.length} validation images, which were not trained on.`
    : 'On the training images, which flatters the detector: mark some images for validation.';
  byId('scores').replaceChildren(table(before.metrics, after?.metrics ?? null, judged.names));
  const pairs = await Promise.all(
    images.map(async (image, index) => {
      const bitmap = await createImageBitmap(image.blob);
      const views = [['before', before], ['after', after]] as const;
      const figures = views.map(([caption, validation]) =>
        figure(bitmap, image.name, caption, validation?.detections[index] ?? [], judged.names, confidence),
      );
      bitmap.close();
      return make(
        'li',
        {},
        make('div', { className: 'pair' }, ...figures),
        make('span', { className: 'name', textContent: image.name }),
      );
    }),
  );
  byId('pairs').replaceChildren(...pairs);
}

function table(before: Metrics, after: Metrics | null, names: readonly string[]): HTMLTableElement {
  const row = (tag: 'th' | 'td', ...texts: string[]): HTMLTableRowElement =>
    make('tr', {}, ...texts.map((text) => make(tag, { textContent: text })));
  const number = (value: number | undefined): string => (value === undefined ? '–' : value.toFixed(3));
  const rows = before.classes.map((own) => {
    const other = after?.classes.find(({ index }) => index === own.index);
    return row(
      'td',
      names[own.index] ?? String(own.index),
      String(own.objects),
      number(own.ap50),
      number(other?.ap50),
      number(own.ap5095),
      number(other?.ap5095),
    );
  });
  return make(
    'table',
    {},
    make('caption', { className: 'quiet', textContent: 'Average precision (mAP), from 0 to 1' }),
    make('thead', {}, row('th', 'Class', 'Objects', 'mAP50 before', 'after', 'mAP50-95 before', 'after')),
    make(
      'tbody',
      {},
      row(
        'td',
        'all',
        String(before.objects),
        number(before.map50),
        number(after?.map50),
        number(before.map5095),
        number(after?.map5095),
      ),
      ...rows,
    ),
  );
}

function figure(
  bitmap: ImageBitmap,
  name: string,
  caption: string,
  detections: readonly Detection[],
  names: readonly string[],
  confidence: number,
): HTMLElement {
  const scale = Math.min(Math.max(320 / bitmap.width, 0.1), 3);
  const canvas = make('canvas', {
    width: Math.round(bitmap.width * scale),
    height: Math.round(bitmap.height * scale),
  });
  const shown = detections.filter((found) => found[4] >= confidence);
  const context = canvas.getContext('2d')!;
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  const boxes = shown.map(([x1, y1, x2, y2, sure, category]) => ({
    corners: [x1 * scale, y1 * scale, x2 * scale, y2 * scale] as const,
    category,
    text: `${names[category] ?? category} ${sure.toFixed(2)}`,
  }));
  drawBoxes(context, boxes, canvas.width);
  canvas.setAttribute('role', 'img');
  const found = boxes.map(({ text }) => text).join(', ') || 'nothing';
  canvas.setAttribute('aria-label', `${name} ${caption}: ${found} found`);
  return make('figure', {}, canvas, make('figcaption', { textContent: caption }));
}
