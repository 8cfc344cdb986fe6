/** The editor of one image's boxes: mouse, touch and keyboard. */

import type { Label } from '../runtime/letterbox.ts';
import { between, type Corner, grown, hit, isMeant, moved, type Point, resized } from './box_edit.ts';
import { byId, make, sized } from './dom.ts';
import { drawBoxes } from './draw_boxes.ts';
import type { ProjectImage } from './project.ts';

const LEAST = 4; // CSS pixels: smaller boxes are slips
const REACH = 12; // CSS pixels around a corner
const TALLEST = 420; // CSS pixels of the canvas
const STEP = 0.01; // of the image, per key

type Drag =
  | { readonly kind: 'draw'; readonly from: Point }
  | { readonly kind: 'move'; readonly from: Point; readonly label: Label }
  | { readonly kind: 'resize'; readonly corner: Corner; readonly label: Label };

export interface EditorEvents {
  readonly changed: (labels: readonly Label[]) => void;
  readonly turned: (by: -1 | 1) => void; // another image is wanted
}

export class Editor {
  readonly #canvas = byId<HTMLCanvasElement>('drawing');
  readonly #list = byId('boxes');
  readonly #class = byId<HTMLSelectElement>('class');
  readonly #events: EditorEvents;
  #names: readonly string[] = [];
  #image: ProjectImage | null = null;
  #bitmap: ImageBitmap | null = null;
  #labels: readonly Label[] = [];
  #chosen = -1;
  #drag: Drag | null = null;
  #draft: Label | null = null;

  constructor(events: EditorEvents) {
    this.#events = events;
    this.#canvas.addEventListener('pointerdown', (event) => this.#down(event));
    this.#canvas.addEventListener('pointermove', (event) => this.#move(event));
    this.#canvas.addEventListener('pointerup', (event) => this.#up(event));
    this.#canvas.addEventListener('pointercancel', () => this.#cancel());
    this.#canvas.addEventListener('keydown', (event) => this.#key(event));
    this.#class.addEventListener('change', () => this.#setClass(this.#category));
    byId('add-box').addEventListener('click', () => this.#add());
    byId('delete-box').addEventListener('click', () => this.#delete(this.#chosen));
    new ResizeObserver(() => this.draw()).observe(byId('editor'));
  }

  setNames(names: readonly string[]): void {
    this.#names = names;
    this.#class.replaceChildren(
      ...names.map((name, index) => make('option', { value: String(index), textContent: name })),
    );
  }

  /** Show an image; null for none. */
  async show(image: ProjectImage | null): Promise<void> {
    if (image?.id !== this.#image?.id) {
      this.#bitmap?.close();
      this.#bitmap = null;
      this.#chosen = -1;
      this.#cancel();
    }
    this.#image = image;
    this.#labels = image?.labels ?? [];
    byId('editor').hidden = !image;
    if (image && !this.#bitmap) {
      const bitmap = await createImageBitmap(image.blob);
      if (this.#image?.id === image.id) this.#bitmap = bitmap;
      else bitmap.close();
    }
    this.#render();
  }

  draw(): void {
    if (!this.#image || !this.#bitmap) return;
    const { width, height } = this.#image;
    const most = byId('editor').clientWidth;
    const scale = Math.min(most / width, TALLEST / height);
    const [across, down] = [Math.floor(width * scale), Math.floor(height * scale)];
    this.#canvas.style.width = `${across}px`;
    this.#canvas.style.height = `${down}px`;
    const context = sized(this.#canvas, across, down);
    context.drawImage(this.#bitmap, 0, 0, across, down);
    const all = this.#draft ? [...this.#labels, this.#draft] : this.#labels;
    drawBoxes(
      context,
      all.map(([category, x, y, w, h], index) => ({
        corners: [(x - w / 2) * across, (y - h / 2) * down, (x + w / 2) * across, (y + h / 2) * down],
        category,
        text: this.#names[category] ?? String(category),
        isChosen: index === this.#chosen,
      })),
      across,
    );
  }

  get #category(): number {
    return Number(this.#class.value || 0);
  }

  #render(): void {
    this.draw();
    this.#list.replaceChildren(...this.#labels.map((label, index) => this.#entry(label, index)));
    byId<HTMLButtonElement>('delete-box').disabled = this.#chosen < 0;
  }

  #entry([category]: Label, index: number): HTMLLIElement {
    const select = make(
      'select',
      { ariaLabel: `Class of box ${index + 1}` },
      ...this.#names.map((name, value) =>
        make('option', { value: String(value), textContent: name, selected: value === category }),
      ),
    );
    select.addEventListener('change', () => {
      this.#chosen = index;
      this.#setClass(Number(select.value));
    });
    const choose = make('button', { type: 'button', textContent: `Box ${index + 1}` });
    choose.setAttribute('aria-pressed', String(index === this.#chosen));
    choose.addEventListener('click', () => this.#choose(index));
    const remove = make('button', { type: 'button', textContent: 'Delete', ariaLabel: `Delete box ${index + 1}` });
    remove.addEventListener('click', () => this.#delete(index));
    const className = index === this.#chosen ? 'chosen' : '';
    return make('li', { className }, choose, select, remove);
  }

  #point(event: PointerEvent): Point {
    const frame = this.#canvas.getBoundingClientRect();
    return [(event.clientX - frame.left) / frame.width, (event.clientY - frame.top) / frame.height];
  }

  #down(event: PointerEvent): void {
    if (event.button !== 0 || !this.#image) return;
    this.#canvas.setPointerCapture(event.pointerId);
    const point = this.#point(event);
    const reach: Point = [REACH / this.#canvas.clientWidth, REACH / this.#canvas.clientHeight];
    const found = event.altKey ? null : hit(this.#labels, this.#chosen, point, reach);
    if (!found) {
      this.#chosen = -1;
      this.#drag = { kind: 'draw', from: point };
    } else {
      const label = this.#labels[found.index]!;
      // A box within another one can be drawn: only the chosen box moves.
      if (found.index !== this.#chosen) this.#drag = { kind: 'draw', from: point };
      else if (found.corner) this.#drag = { kind: 'resize', corner: found.corner, label };
      else this.#drag = { kind: 'move', from: point, label };
    }
    this.draw();
  }

  #move(event: PointerEvent): void {
    const drag = this.#drag;
    if (!drag) return;
    const point = this.#point(event);
    if (drag.kind === 'draw') this.#draft = between(this.#category, drag.from, point);
    else {
      const label =
        drag.kind === 'move'
          ? moved(drag.label, point[0] - drag.from[0], point[1] - drag.from[1])
          : resized(drag.label, drag.corner, point);
      this.#labels = this.#labels.with(this.#chosen, label);
    }
    this.draw();
  }

  #up(event: PointerEvent): void {
    const drag = this.#drag;
    if (!drag) return;
    this.#move(event);
    this.#drag = null;
    const draft = this.#draft;
    this.#draft = null;
    if (drag.kind !== 'draw') this.#change(this.#labels);
    else if (draft && isMeant(draft, [LEAST / this.#canvas.clientWidth, LEAST / this.#canvas.clientHeight])) {
      this.#chosen = this.#labels.length;
      this.#change([...this.#labels, draft]);
    } else this.#choose(hit(this.#labels, -1, drag.from, [0, 0])?.index ?? -1);
  }

  #cancel(): void {
    this.#drag = null;
    this.#draft = null;
    this.#labels = this.#image?.labels ?? [];
    this.draw();
  }

  #key(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const label = this.#labels[this.#chosen];
    const arrows: Readonly<Record<string, Point>> = {
      ArrowLeft: [-STEP, 0],
      ArrowRight: [STEP, 0],
      ArrowUp: [0, -STEP],
      ArrowDown: [0, STEP],
    };
    const by = arrows[event.key];
    const next = event.key === ']' || (event.key === 'Tab' && !event.shiftKey);
    const isTurn = next || event.key === '[' || event.key === 'Tab';
    if (by && label) this.#set(event.shiftKey ? grown(label, ...by) : moved(label, ...by));
    else if (isTurn) {
      const to = this.#chosen + (next ? 1 : -1);
      // Tab leaves the editor after the last box, so that nobody is caught in it.
      if (event.key === 'Tab' && (to >= this.#labels.length || to < 0)) return;
      this.#choose((to + this.#labels.length) % Math.max(this.#labels.length, 1));
    } else if (event.key === 'Delete' || event.key === 'Backspace') this.#delete(this.#chosen);
    else if (event.key.toLowerCase() === 'n') this.#add();
    else if (event.key === 'Escape') this.#choose(-1);
    else if (event.key === 'PageDown' || event.key === 'PageUp') {
      this.#events.turned(event.key === 'PageDown' ? 1 : -1);
    } else if (/^[1-9]$/.test(event.key) && Number(event.key) <= this.#names.length) {
      this.#setClass(Number(event.key) - 1);
    } else return;
    event.preventDefault();
  }

  #add(): void {
    if (!this.#image) return;
    this.#chosen = this.#labels.length;
    this.#change([...this.#labels, [this.#category, 0.5, 0.5, 0.25, 0.25]]);
    this.#canvas.focus();
  }

  #delete(index: number): void {
    if (!this.#labels[index]) return;
    this.#chosen = -1;
    this.#change(this.#labels.filter((_, other) => other !== index));
  }

  #choose(index: number): void {
    this.#chosen = this.#labels[index] ? index : -1;
    const category = this.#labels[this.#chosen]?.[0];
    if (category !== undefined) this.#class.value = String(category);
    this.#render();
  }

  #setClass(category: number): void {
    this.#class.value = String(category);
    const label = this.#labels[this.#chosen];
    if (label) this.#set([category, label[1], label[2], label[3], label[4]]);
  }

  #set(label: Label): void {
    this.#change(this.#labels.with(this.#chosen, label));
  }

  #change(labels: readonly Label[]): void {
    this.#labels = labels;
    this.#events.changed(labels);
    this.#render();
  }
}
