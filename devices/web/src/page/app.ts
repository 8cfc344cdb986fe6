/** The page's state, and what its controls do with it. */

import type { Bytes } from '../runtime/bytes.ts';
import { ConfigError, DataError } from '../runtime/errors.ts';
import type { FolderFiles } from '../worker/protocol.ts';
import { setUpCamera } from './camera.ts';
import { Collection } from './collection.ts';
import { Detector } from './detector.ts';
import { byId, download } from './dom.ts';
import { Editor } from './editor.ts';
import { fetchFolder, readFolder } from './folder_source.ts';
import { showGallery } from './gallery.ts';
import { fromDrop, fromInput, type Incoming, sortFiles } from './intake.ts';
import { judgedImages, type ProjectImage, recordOf, type Run, type Saved } from './project.ts';
import { showResult } from './result.ts';
import { describeMachine } from './session_view.ts';
import type { Store } from './store.ts';
import { Training } from './training.ts';

export class App {
  readonly #store: Store;
  readonly #collection: Collection;
  readonly #editor: Editor;
  readonly #detector = new Detector((text) => this.#say(text));
  readonly #training = new Training();
  #run: Run | null = null;
  #state: Bytes | null = null; // of the run's last complete epoch
  #busy = false;

  constructor(store: Store) {
    this.#store = store;
    this.#collection = new Collection(store);
    this.#editor = new Editor({
      changed: (labels) => this.#edit({ labels }),
      turned: (by) => {
        this.#collection.turn(by);
        this.#showChosen();
      },
    });
  }

  /** Connect the controls, and continue where the page was left. */
  async start(): Promise<void> {
    this.#connect();
    byId('engine').textContent = describeMachine();
    if (!('gpu' in navigator)) byId<HTMLSelectElement>('device').options[1]!.disabled = true;
    await this.#do('Loading what was kept …', async () => {
      await this.#collection.load();
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
    on('device', 'change', () => void this.#do('Changing the device …', () => this.#detector.changeDevice()));
    on('validation', 'change', () => this.#edit({ isValidation: byId<HTMLInputElement>('validation').checked }));
    on('remove-image', 'click', () => {
      this.#collection.removeCurrent().catch((error: Error) => this.#fail(error));
      this.#showChosen();
    });
    on('settings', 'submit', (event) => {
      event.preventDefault();
      void this.#train();
    });
    on('stop', 'click', () => void this.#detector.helper.call('stop', null));
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
      await this.#collection.add(images, labels, this.#detector.isOpen ? this.#detector.names.length : null);
      if (states[0]) await this.#takeState(states[0], true);
      if (!folder && !images.length && !labels.length && !states.length) {
        throw new DataError(
          `${others[0] ?? 'the file'} is no image, label file, state or artifacts folder; choose another`,
        );
      }
    });
  }

  async #open(files: FolderFiles): Promise<void> {
    await this.#detector.open(files);
    this.#editor.setNames(this.#detector.names);
  }

  async #openNew(files: FolderFiles): Promise<void> {
    await this.#open(files);
    [this.#run, this.#state] = [null, null];
    await this.#store.replace('files', files);
    await this.#store.remove('values', 'saved');
  }

  async #restore({ run, state }: Saved): Promise<void> {
    [this.#run, this.#state] = [run, state];
    if (run) this.#training.fill(run.settings);
    if (state) await this.#detector.load(state, 'the kept state', false);
  }

  async #loadState(file: File | undefined, fresh: boolean): Promise<void> {
    if (file) await this.#do('Reading the state …', () => this.#takeState(file, fresh));
  }

  async #takeState(file: File, fresh: boolean): Promise<void> {
    await this.#detector.load(new Uint8Array(await file.arrayBuffer()), file.name, fresh);
    [this.#run, this.#state] = [null, await this.#detector.helper.call('save', null)];
    await this.#keep();
  }

  /** Change the image that is edited. */
  #edit(change: Partial<ProjectImage>): void {
    const { current } = this.#collection;
    if (!current) return;
    this.#collection.change(current.id, change).catch((error: Error) => this.#fail(error));
    this.#showImages();
  }

  #choose(id: string | null): void {
    this.#collection.choose(id);
    this.#showChosen();
  }

  #showChosen(): void {
    this.#showImages();
    void this.#editor.show(this.#collection.current);
  }

  async #train(): Promise<void> {
    await this.#do('Training …', async () => {
      const { manifest } = this.#detector.opened;
      const summary = await this.#training.run({
        helper: this.#detector.helper,
        run: this.#run,
        state: this.#state,
        images: this.#collection.images,
        manifest,
        progress: async (run, state) => {
          [this.#run, this.#state] = [run, state ?? this.#state];
          await this.#keep();
          await this.#showResult();
        },
        say: (text) => this.#say(text),
      });
      this.#detector.show(summary);
    });
  }

  /** Go back to the weights that were exported. */
  async #again(): Promise<void> {
    await this.#do('Going back …', async () => {
      await this.#detector.reset();
      [this.#run, this.#state] = [null, null];
      await this.#store.remove('values', 'saved');
    });
  }

  async #keep(): Promise<void> {
    await this.#store.put('values', 'saved', { run: this.#run, state: this.#state } satisfies Saved);
  }

  async #download(what: 'detector' | 'state' | 'record'): Promise<void> {
    await this.#do('Writing the file …', async () => {
      const { helper, opened } = this.#detector;
      if (what === 'detector') {
        download(await helper.call('exportDetector', null), 'detector.onnx', 'application/octet-stream');
      } else if (what === 'state') {
        download(await helper.call('save', null), 'state.safetensors', 'application/octet-stream');
      } else if (this.#run) {
        const record = recordOf(this.#run, this.#collection.images, opened.manifest, opened.engine);
        download(JSON.stringify(record, null, 1), 'run.json', 'application/json');
      }
    });
  }

  async #forget(): Promise<void> {
    if (!confirm('Remove detector, images, boxes and training from this browser?')) return;
    await this.#store.clear();
    location.reload();
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
    const open = this.#detector.isOpen;
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
    await this.#editor.show(this.#collection.current);
    await this.#showResult();
  }

  #showImages(): void {
    const { images, current } = this.#collection;
    showGallery(images, current?.id ?? null, (id) => this.#choose(id));
    byId<HTMLInputElement>('validation').checked = current?.isValidation ?? false;
  }

  async #showResult(): Promise<void> {
    const confidence = Number(byId<HTMLInputElement>('confidence').value);
    byId('confidence-value').textContent = confidence.toFixed(2);
    const run = this.#run;
    const judged = run && this.#collection.findAll(run.judged);
    const isWhole = run && judged?.length === run.judged.length;
    await showResult(
      {
        images: judged ?? judgedImages(this.#collection.images),
        before: isWhole ? run.before : null,
        after: isWhole ? run.after : null,
        names: this.#detector.names,
      },
      confidence,
    );
  }
}
