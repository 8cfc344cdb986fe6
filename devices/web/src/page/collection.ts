/** The images of the project and their boxes, kept in the browser. */

import { ConfigError, DataError } from '../runtime/errors.ts';
import { type Incoming, isOfValidation } from './intake.ts';
import { parseLabels, stemOf } from './labels.ts';
import { freeName, type ProjectImage } from './project.ts';
import type { Store } from './store.ts';

export class Collection {
  readonly #store: Store;
  #images: ProjectImage[] = [];
  #current: string | null = null;

  constructor(store: Store) {
    this.#store = store;
  }

  get images(): readonly ProjectImage[] {
    return this.#images;
  }

  /** The image that is edited. */
  get current(): ProjectImage | null {
    return this.find(this.#current);
  }

  find(id: string | null): ProjectImage | null {
    return this.#images.find((image) => image.id === id) ?? null;
  }

  /** Return the images of ids; those that were removed are missing. */
  findAll(ids: readonly string[]): ProjectImage[] {
    return ids.flatMap((id) => this.find(id) ?? []);
  }

  async load(): Promise<void> {
    const images = await this.#store.all<ProjectImage>('images');
    this.#images = [...images.values()].sort((a, b) => a.order - b.order);
    this.#current = this.#images[0]?.id ?? null;
  }

  choose(id: string | null): void {
    this.#current = id;
  }

  /** Choose the image before or after the current one, if there is one. */
  turn(by: -1 | 1): void {
    const index = this.#images.findIndex((image) => image.id === this.#current);
    this.#current = this.#images[index + by]?.id ?? this.#current;
  }

  /**
   * Add images, and the boxes of label files of the same names.
   *
   * @param numClasses Number of the detector's classes; null if none is open.
   * @throws DataError if an image cannot be decoded, or a label file is bad or of no image.
   * @throws ConfigError if there are label files, but no detector whose classes they mean.
   */
  async add(
    images: readonly Incoming[],
    labels: readonly Incoming[],
    numClasses: number | null,
  ): Promise<void> {
    const texts = new Map<string, readonly ProjectImage['labels'][number][]>();
    for (const { path, file } of labels) {
      if (numClasses === null) {
        throw new ConfigError('choose an artifacts folder first: it has the classes of the label files');
      }
      texts.set(stemOf(path), parseLabels(await file.text(), path, numClasses));
    }
    for (const { path, file } of images) {
      await this.#addImage(path, file, texts.get(stemOf(path)) ?? []);
    }
    for (const { path } of images.length ? [] : labels) {
      const image = this.#images.find(({ name }) => stemOf(name) === stemOf(path));
      if (!image) {
        throw new DataError(`${path}: no image of this name is here; add images and labels together`);
      }
      await this.change(image.id, { labels: texts.get(stemOf(path))! });
    }
  }

  async change(id: string, change: Partial<ProjectImage>): Promise<void> {
    const index = this.#images.findIndex((image) => image.id === id);
    const image = { ...this.#images[index]!, ...change };
    this.#images[index] = image;
    await this.#store.put('images', id, image);
  }

  async removeCurrent(): Promise<void> {
    const id = this.#current;
    if (!id) return;
    const index = this.#images.findIndex((image) => image.id === id);
    this.#images.splice(index, 1);
    this.#current = (this.#images[index] ?? this.#images.at(-1))?.id ?? null;
    await this.#store.remove('images', id);
  }

  async #addImage(path: string, file: File, labels: ProjectImage['labels']): Promise<void> {
    const name = freeName(path.slice(path.lastIndexOf('/') + 1), this.#images);
    const blob = new Blob([await file.arrayBuffer()], { type: file.type });
    const bitmap = await createImageBitmap(blob).catch(() => {
      throw new DataError(`${name}: the image cannot be decoded; choose another`);
    });
    const { width, height } = bitmap;
    bitmap.close();
    const image: ProjectImage = {
      id: crypto.randomUUID(),
      name,
      blob,
      width,
      height,
      labels,
      isValidation: isOfValidation(path),
      order: (this.#images.at(-1)?.order ?? 0) + 1,
    };
    this.#images.push(image);
    this.#current ??= image.id;
    await this.#store.put('images', image.id, image);
  }
}
