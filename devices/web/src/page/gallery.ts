/** The list of images. */

import { byId, make } from './dom.ts';
import type { ProjectImage } from './project.ts';

const previews = new Map<string, string>(); // addresses by the image's id

/** Show the images, with the number of boxes of each. */
export function showGallery(
  images: readonly ProjectImage[],
  current: string | null,
  choose: (id: string) => void,
): void {
  const ids = new Set(images.map((image) => image.id));
  for (const [id, url] of previews) {
    if (!ids.has(id)) {
      URL.revokeObjectURL(url);
      previews.delete(id);
    }
  }
  byId('gallery').replaceChildren(
    ...images.map((image) => {
      const { id, name, labels, isValidation } = image;
      const boxes = `${labels.length} ${labels.length === 1 ? 'box' : 'boxes'}`;
      const badge = `${labels.length}${isValidation ? ' · val' : ''}`;
      const button = make(
        'button',
        { type: 'button', title: name, ariaLabel: `${name}, ${boxes}${isValidation ? ', for validation' : ''}` },
        make('img', { src: preview(image), alt: '', loading: 'lazy' }),
        make('span', { className: 'badge', textContent: badge }),
      );
      button.setAttribute('aria-current', String(id === current));
      button.addEventListener('click', () => choose(id));
      return make('li', {}, button);
    }),
  );
  const held = images.filter((image) => image.isValidation).length;
  const boxes = images.reduce((sum, image) => sum + image.labels.length, 0);
  byId('counts').textContent = images.length
    ? `${images.length - held} to train on, ${held} for validation, ${boxes} boxes`
    : 'No images yet.';
}

function preview({ id, blob }: ProjectImage): string {
  const url = previews.get(id) ?? URL.createObjectURL(blob);
  previews.set(id, url);
  return url;
}
