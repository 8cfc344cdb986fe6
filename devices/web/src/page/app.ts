/** The page's state, and what its controls do with it. */

import type { Bytes } from '../runtime/bytes.ts';
import { ConfigError, DataError } from '../runtime/errors.ts';
import type { Provider } from '../runtime/session.ts';
import type { FolderFiles, Opened, StateSummary } from '../worker/protocol.ts';
import { setUpCamera } from './camera.ts';
import { byId, download } from './dom.ts';
import { Editor } from './editor.ts';
import { fetchFolder, readFolder } from './folder_source.ts';
import { showGallery } from './gallery.ts';
import { fromDrop, fromInput, type Incoming, isOfValidation, sortFiles } from './intake.ts';
import { parseLabels, stemOf } from './labels.ts';
import { freeName, judgedImages, type ProjectImage, recordOf, type Run, type Saved } from './project.ts';
import { showResult } from './result.ts';
import { describeMachine, showDetector } from './session_view.ts';
import type { Store } from './store.ts';
import { Training } from './training.ts';
import { type Helper, startWorker } from './worker_client.ts';

const UPDATES: StateSummary = { updates: 0, skipped: 0 };

export class App {
  readonly #store: Store;
  readonly #editor: Editor;
  #helper: Helper = startWorker();
  #training = new Training(this.#helper);
  #opened: Opened | null = null;
  #files: FolderFiles | null = null;
  #images: ProjectImage[] = [];
  #current: string | null = null;
  #run: Run | null = null;
  #state: Bytes | null = null; // of the run's last complete epoch
  #busy = false;

  constructor(store: Store) {
    this.#store = store;
    this.#editor = new Editor({
      changed: (labels) => this.#edit({ labels }),
      turned: (by) => this.#turn(by),
    });
  }

  /** Connect the controls, and continue where the page was left. */
  async start(): Promise<void> {
    this.#connect();
    byId('engine').textContent = describeMachine();
    if (!('gpu' in navigator)) byId<HTMLSelectElement>('device').options[1]!.disabled = true;
    await this.#do('Loading what was kept …', async () => {
      const images = await this.#store.all<ProjectImage>('images');
      this.#images = [...images.values()].sort((a, b) => a.order - b.order);
      this.#current = this.#images[0]?.id ?? null;
      const files = await this.#store.all<Blob>('files');
      const saved = await this.#store.get<Saved>('values', 'saved');
      if (files.size) {
        await this.#open(files);
        if (saved) await this.#restore(saved);
      }
    });
    await this.#show();
  }

  #connect(): void {
    const on = (id: string, type: string, act: (event: Event) => void): void =>
      byId(id).addEventListener(type, act);
    const incoming = (event: Event): Incoming[] => fromInput(event.target as HTMLInputElement);
    on('folder', 'change', (event) => void this.#receive(incoming(event)));
    on('image-files', 'change', (event) => void this.#receive(incoming(event)));
    on('continue-state', 'change', (event) => void this.#loadState(incoming(event)[0]?.file, false));
    on('start-state', 'change', (event) => void this.#loadState(incoming(event)[0]?.file, true));
    on('path-form', 'submit', (event) => {
      event.preventDefault();
      const { value } = byId<HTMLInputElement>('path');
      void this.#do('Loading the folder …', async () => this.#openNew(await fetchFolder(value)));
    });
    on('device', 'change', () => void this.#changeDevice());
    on('validation', 'change', () => this.#edit({ isValidation: byId<HTMLInputElement>('validation').checked }));
    on('remove-image', 'click', () => void this.#removeImage());
    on('settings', 'submit', (event) => {
      event.preventDefault();
      void this.#train();
    });
    on('stop', 'click', () => void this.#helper.call('stop', null));
    on('again', 'click', () => void this.#again());
    on('confidence', 'input', () => void this.#showResult());
    on('download-detector', 'click', () => void this.#download('detector'));
    on('download-state', 'click', () => void this.#download('state'));
    on('download-record', 'click', () => void this.#download('record'));
    on('forget', 'click', () => void this.#forget());
    setUpCamera(
      (file) => void this.#receive([{ path: file.name, file }]),
      (error) => this.#fail(error),
    );
    document.addEventListener('dragover', (event) => event.preventDefault());
    document.addEventListener('drop', (event) => {
      event.preventDefault();
      if (event.dataTransfer) void fromDrop(event.dataTransfer).then((files) => this.#receive(files));
    });
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => void this.#show());
    addEventListener('resize', () => this.#training.draw(this.#run));
  }

  /** Take files, whatever they are. */
  async #receive(files: readonly Incoming[]): Promise<void> {
    if (!files.length) return;
    const { folder, images, labels, states, others } = sortFiles(files);
    await this.#do('Reading the files …', async () => {
      if (folder) await this.#openNew(await readFolder(folder));
      if (images.length || labels.length) await this.#addImages(images, labels);
      if (states[0]) await this.#takeState(states[0], true);
      if (!folder && !images.length && !labels.length && !states.length) {
        throw new DataError(
          `${others[0] ?? 'the file'} is no image, label file, state or artifacts folder; choose another`,
        );
      }
    });
  }

  async #openNew(files: FolderFiles): Promise<void> {
    await this.#open(files);
    [this.#run, this.#state] = [null, null];
    await this.#store.replace('files', files);
    await this.#store.remove('values', 'saved');
  }

  async #open(files: FolderFiles): Promise<void> {
    const provider = byId<HTMLSelectElement>('device').value as Provider;
    this.#helper.on('verified', (name) => this.#say(`${name} is verified …`));
    this.#opened = await this.#helper.call('open', { files, provider });
    this.#files = files;
    this.#editor.setNames(this.#opened.manifest.names);
    showDetector(this.#opened, UPDATES);
  }

  async #restore({ run, state }: Saved): Promise<void> {
    [this.#run, this.#state] = [run, state];
    this.#training.fill(run.settings);
    if (!state || !this.#opened) return;
    const summary = await this.#helper.call('load', { content: state, name: 'the kept state', fresh: false });
    showDetector(this.#opened, summary);
  }

  /** Open the detector on another device, in a worker of its own, with the same state. */
  async #changeDevice(): Promise<void> {
    await this.#do('Changing the device …', async () => {
      const state = this.#opened ? await this.#helper.call('save', null) : null;
      this.#helper.end();
      this.#helper = startWorker();
      this.#training = new Training(this.#helper);
      if (!this.#files) return;
      try {
        await this.#open(this.#files);
      } catch (error) {
        byId<HTMLSelectElement>('device').value = 'wasm';
        this.#helper.end();
        this.#helper = startWorker();
        this.#training = new Training(this.#helper);
        await this.#open(this.#files);
        throw error;
      } finally {
        if (state) await this.#helper.call('load', { content: state, name: 'the state', fresh: false });
      }
    });
  }

  async #loadState(file: File | undefined, fresh: boolean): Promise<void> {
    if (file) await this.#do('Reading the state …', () => this.#takeState(file, fresh));
  }

  async #takeState(file: File, fresh: boolean): Promise<void> {
    if (!this.#opened) throw new ConfigError('choose an artifacts folder first, then the state');
    const content = new Uint8Array(await file.arrayBuffer());
    const summary = await this.#helper.call('load', { content, name: file.name, fresh });
    showDetector(this.#opened, summary);
    [this.#run, this.#state] = [null, await this.#helper.call('save', null)];
    await this.#keep();
  }

  async #addImages(images: readonly Incoming[], labels: readonly Incoming[]): Promise<void> {
    const classes = this.#opened?.manifest.names.length;
    if (labels.length && classes === undefined) {
      throw new ConfigError('choose an artifacts folder first: it has the classes of the label files');
    }
    const texts = new Map(labels.map((one) => [stemOf(one.path), one]));
    for (const { path, file } of images) {
      const name = freeName(path.slice(path.lastIndexOf('/') + 1), this.#images);
      const blob = new Blob([await file.arrayBuffer()], { type: file.type });
      const bitmap = await createImageBitmap(blob).catch(() => {
        throw new DataError(`${name}: the image cannot be decoded; choose another`);
      });
      const { width, height } = bitmap;
      bitmap.close();
      const text = texts.get(stemOf(path));
      const image: ProjectImage = {
        id: crypto.randomUUID(),
        name,
        blob,
        width,
        height,
        labels: text ? parseLabels(await text.file.text(), text.path, classes!) : [],
        isValidation: isOfValidation(path),
        order: (this.#images.at(-1)?.order ?? 0) + 1,
      };
      this.#images.push(image);
      this.#current ??= image.id;
      await this.#store.put('images', image.id, image);
    }
    for (const { path, file } of images.length ? [] : labels) {
      const image = this.#images.find(({ name }) => stemOf(name) === stemOf(path));
      if (!image) throw new DataError(`${path}: no image of this name is here; add images and labels together`);
      this.#update(image.id, { labels: parseLabels(await file.text(), path, classes!) });
    }
  }

  #edit(change: Partial<ProjectImage>): void {
    if (!this.#current) return;
    this.#update(this.#current, change);
    this.#showImages();
  }

  #update(id: string, change: Partial<ProjectImage>): void {
    const index = this.#images.findIndex((image) => image.id === id);
    const image = { ...this.#images[index]!, ...change };
    this.#images[index] = image;
    this.#store.put('images', id, image).catch((error: Error) => this.#fail(error));
  }

  #turn(by: -1 | 1): void {
    const index = this.#images.findIndex((image) => image.id === this.#current);
    this.#choose(this.#images[index + by]?.id ?? this.#current);
  }

  #choose(id: string | null): void {
    this.#current = id;
    this.#showImages();
    void this.#editor.show(this.#image());
  }

  async #removeImage(): Promise<void> {
    const id = this.#current;
    if (!id) return;
    const index = this.#images.findIndex((image) => image.id === id);
    this.#images.splice(index, 1);
    this.#choose((this.#images[index] ?? this.#images.at(-1))?.id ?? null);
    await this.#store.remove('images', id);
  }

  async #train(): Promise<void> {
    await this.#do('Training …', async () => {
      if (!this.#opened) throw new ConfigError('choose an artifacts folder first');
      const summary = await this.#training.run({
        run: this.#run,
        state: this.#state,
        images: this.#images,
        manifest: this.#opened.manifest,
        progress: async (run, state) => {
          [this.#run, this.#state] = [run, state ?? this.#state];
          await this.#keep();
          await this.#showResult();
        },
        say: (text) => this.#say(text),
      });
      showDetector(this.#opened, summary);
    });
  }

  /** Go back to the weights that were exported. */
  async #again(): Promise<void> {
    await this.#do('Going back …', async () => {
      const summary = await this.#helper.call('reset', null);
      [this.#run, this.#state] = [null, null];
      await this.#store.remove('values', 'saved');
      if (this.#opened) showDetector(this.#opened, summary);
    });
  }

  async #keep(): Promise<void> {
    const run = this.#run;
    if (run) await this.#store.put('values', 'saved', { run, state: this.#state } satisfies Saved);
  }

  async #download(what: 'detector' | 'state' | 'record'): Promise<void> {
    await this.#do('Writing the file …', async () => {
      if (!this.#opened) throw new ConfigError('choose an artifacts folder first');
      if (what === 'detector') {
        download(await this.#helper.call('exportDetector', null), 'detector.onnx', 'application/octet-stream');
      } else if (what === 'state') {
        download(await this.#helper.call('save', null), 'state.safetensors', 'application/octet-stream');
      } else if (this.#run) {
        const record = recordOf(this.#run, this.#images, this.#opened.manifest, this.#opened.engine);
        download(JSON.stringify(record, null, 1), 'run.json', 'application/json');
      }
    });
  }

  async #forget(): Promise<void> {
    if (!confirm('Remove detector, images, boxes and training from this browser?')) return;
    await this.#store.clear();
    location.reload();
  }

  #image(): ProjectImage | null {
    return this.#images.find((image) => image.id === this.#current) ?? null;
  }

  /** Do one thing at a time; what goes wrong is said, and nothing else is changed by it. */
  async #do(what: string, act: () => Promise<void>): Promise<void> {
    if (this.#busy) {
      this.#fail(new ConfigError('wait until the page is done, or stop the training'));
      return;
    }
    this.#busy = true;
    byId('error').hidden = true;
    this.#say(what);
    this.#enable();
    try {
      await act();
      this.#say('Ready.');
    } catch (error) {
      this.#fail(error instanceof Error ? error : new Error(String(error)));
      this.#say('');
    } finally {
      this.#busy = false;
      await this.#show();
    }
  }

  #say(text: string): void {
    byId('status').textContent = text;
  }

  #fail(error: Error): void {
    byId('error').textContent = error.message;
    byId('error').hidden = false;
    byId('error').scrollIntoView({ block: 'nearest' });
  }

  #enable(): void {
    const open = Boolean(this.#opened);
    const set = (id: string, isEnabled: boolean): void => {
      byId<HTMLButtonElement>(id).disabled = !isEnabled;
    };
    set('start', open && !this.#busy);
    set('stop', this.#busy && this.#training.isRunning);
    set('again', open && !this.#busy);
    set('device', !this.#busy);
    for (const what of ['detector', 'state']) set(`download-${what}`, open && !this.#busy);
    set('download-record', Boolean(this.#run?.steps.length) && !this.#busy);
  }

  async #show(): Promise<void> {
    this.#enable();
    this.#showImages();
    this.#training.draw(this.#run);
    await this.#editor.show(this.#image());
    await this.#showResult();
  }

  #showImages(): void {
    showGallery(this.#images, this.#current, (id) => this.#choose(id));
    byId<HTMLInputElement>('validation').checked = this.#image()?.isValidation ?? false;
  }

  async #showResult(): Promise<void> {
    const confidence = Number(byId<HTMLInputElement>('confidence').value);
    byId('confidence-value').textContent = confidence.toFixed(2);
    const run = this.#run;
    const judged = run?.judged.flatMap((id) => this.#images.find((image) => image.id === id) ?? []);
    const isWhole = run && judged?.length === run.judged.length;
    await showResult(
      {
        images: judged ?? judgedImages(this.#images),
        before: isWhole ? run.before : null,
        after: isWhole ? run.after : null,
        names: this.#opened?.manifest.names ?? [],
      },
      confidence,
    );
  }
}
