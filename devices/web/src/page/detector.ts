/** The open detector: the worker that has it, and the files that it was made of. */

import type { Bytes } from '../runtime/bytes.ts';
import { ConfigError } from '../runtime/errors.ts';
import type { Provider } from '../runtime/graphs.ts';
import type { FolderFiles, Opened, StateSummary } from '../worker/protocol.ts';
import { byId } from './dom.ts';
import { showDetector } from './session_view.ts';
import { type Helper, startWorker } from './worker_client.ts';

export class Detector {
  readonly #say: (text: string) => void;
  #helper = startWorker();
  #opened: Opened | null = null;
  #files: FolderFiles | null = null;

  /** @param say Told which files are verified. */
  constructor(say: (text: string) => void) {
    this.#say = say;
  }

  get helper(): Helper {
    return this.#helper;
  }

  get isOpen(): boolean {
    return this.#opened !== null;
  }

  /** Number and names of the classes; empty if no detector is open. */
  get names(): readonly string[] {
    return this.#opened?.manifest.names ?? [];
  }

  /** What was opened; throws a ConfigError if nothing is. */
  get opened(): Opened {
    if (!this.#opened) throw new ConfigError('choose an artifacts folder first');
    return this.#opened;
  }

  async open(files: FolderFiles): Promise<void> {
    const provider = byId<HTMLSelectElement>('device').value as Provider;
    this.#helper.on('verified', (name) => this.#say(`${name} is verified …`));
    this.#opened = await this.#helper.call('open', { files, provider });
    this.#files = files;
    showDetector(this.#opened, { updates: 0, skipped: 0 });
  }

  /** Take over a state; `fresh` takes its weights only. */
  async load(content: Bytes, name: string, fresh: boolean): Promise<void> {
    const { opened } = this;
    showDetector(opened, await this.#helper.call('load', { content, name, fresh }));
  }

  /** Go back to the weights that were exported. */
  async reset(): Promise<void> {
    const { opened } = this;
    showDetector(opened, await this.#helper.call('reset', null));
  }

  show(summary: StateSummary): void {
    showDetector(this.opened, summary);
  }

  /**
   * Open the detector on the device that is chosen, in a worker of its own, with the same state.
   *
   * A device that fails the self-check leaves the detector on the processor, and the error is thrown.
   */
  async changeDevice(): Promise<void> {
    const state = this.#opened ? await this.#helper.call('save', null) : null;
    this.#restart();
    if (!this.#files) return;
    try {
      await this.open(this.#files);
    } catch (error) {
      byId<HTMLSelectElement>('device').value = 'wasm';
      this.#restart();
      await this.open(this.#files);
      throw error;
    } finally {
      if (state) await this.load(state, 'the state', false);
    }
  }

  #restart(): void {
    this.#helper.end();
    this.#helper = startWorker();
  }
}
