/** The training part of the page: a run from its settings to before and after. */

import type { Bytes } from '../runtime/bytes.ts';
import { batchCount } from '../runtime/batches.ts';
import { ConfigError, DataError } from '../runtime/errors.ts';
import type { Manifest } from '../runtime/manifest.ts';
import type { RecordedStep, RunSettings } from '../runtime/trainer.ts';
import { drawCurve } from './curve.ts';
import { byId } from './dom.ts';
import { judgedImages, type ProjectImage, type Run, toWorker, trainingImages } from './project.ts';
import type { StateSummary, TrainOutcome } from '../worker/protocol.ts';
import type { Helper } from './worker_client.ts';

export interface TrainingRequest {
  readonly helper: Helper;
  readonly run: Run | null; // one that is not complete is continued
  readonly state: Bytes | null;
  readonly images: readonly ProjectImage[];
  readonly manifest: Manifest;
  /** Called when something is to be kept; the state is that of the last complete epoch. */
  readonly progress: (run: Run, state: Bytes | null) => Promise<void>;
  readonly say: (text: string) => void;
}

export class Training {
  #steps: RecordedStep[] = [];
  #planned = 0;
  #batchSize = 1;
  #running = false;

  get isRunning(): boolean {
    return this.#running;
  }

  /** Train until the run is complete or stopped, with a validation before and after. */
  async run(request: TrainingRequest): Promise<StateSummary> {
    const { helper } = request;
    const isContinued = request.run !== null && request.run.epochs < request.run.settings.epochs;
    let run = isContinued ? request.run! : await this.#begin(request);
    const images = this.#imagesOf(run, request.images);
    const judged = judgedOf(run, request.images).map(toWorker);
    if (!run.before) {
      request.say('Looking at the images before the training …');
      run = { ...run, before: await helper.call('validate', judged) };
    }
    await request.progress(run, null);
    this.#batchSize = request.manifest.batchSize;
    this.#planned = run.settings.epochs * batchCount(images.length, this.#batchSize);
    this.#steps = [...run.steps];
    let kept = Promise.resolve();
    let outcome: TrainOutcome;
    helper.on('step', (step) => this.#told(step, request));
    helper.on('epoch', ({ epochs, state }) => {
      run = { ...run, epochs, steps: this.#steps.slice() };
      const whole = run;
      kept = kept.then(() => request.progress(whole, state));
    });
    try {
      this.#setRunning(true);
      const before = run.seconds;
      outcome = await helper.call('train', {
        images: images.map(toWorker),
        settings: run.settings,
        epoch: run.epochs,
      });
      run = { ...run, epochs: outcome.epochs, seconds: before + outcome.seconds };
    } finally {
      this.#setRunning(false);
      await kept;
    }
    run = { ...run, steps: this.#steps.filter((step) => step.epoch < run.epochs) };
    request.say('Looking at the images after the training …');
    await request.progress({ ...run, after: await helper.call('validate', judged) }, null);
    return outcome;
  }

  /** Put the settings of a run into the form. */
  fill(settings: RunSettings): void {
    byId<HTMLInputElement>('epochs').value = String(settings.epochs);
    byId<HTMLInputElement>('rate').value = String(settings.lr0);
    byId<HTMLInputElement>('seed').value = String(settings.seed);
    byId<HTMLInputElement>('mirror').checked = settings.flips.mirror > 0;
    byId<HTMLInputElement>('flip').checked = settings.flips.flip > 0;
  }

  /** Draw the curve and the numbers of a run. */
  draw(run: Run | null): void {
    const steps = this.#running ? this.#steps : (run?.steps ?? []);
    const perEpoch = run && run.epochs ? steps.length / run.epochs : 0;
    const planned = this.#running ? this.#planned : Math.round(perEpoch * (run?.settings.epochs ?? 0));
    byId<HTMLProgressElement>('progress').value = planned ? steps.length / planned : 0;
    drawCurve(byId<HTMLCanvasElement>('curve'), steps.map(lossOf), Math.max(planned, steps.length));
    const isOpen = run !== null && run.epochs < run.settings.epochs;
    byId('start').textContent = isOpen ? 'Continue' : run ? 'Train further' : 'Start';
    const last = steps.at(-1);
    if (this.#running) return;
    byId('numbers').textContent = !last
      ? 'Not started.'
      : `${isOpen ? 'Stopped after' : 'Complete:'} ${run?.epochs} of ${run?.settings.epochs} epochs, ` +
        `${steps.length} steps in ${run?.seconds.toFixed(0)} s; loss ${lossOf(last).toPrecision(4)}`;
  }

  async #begin({ helper, run, state, images }: TrainingRequest): Promise<Run> {
    const settings = readSettings();
    if (run && state) {
      // Train further: from the weights so far, with a new schedule.
      await helper.call('load', { content: state, name: 'the state', fresh: true });
    }
    const trained = trainingImages(images);
    if (!trained.some((image) => image.labels.length)) {
      throw new DataError('there is nothing to learn: add images that are not for validation, and draw boxes');
    }
    const judged = judgedImages(images);
    return {
      settings,
      images: trained.map(({ id }) => id),
      epochs: 0,
      steps: [],
      seconds: 0,
      judged: judged.map(({ id }) => id),
      before: null,
      after: null,
    };
  }

  #imagesOf(run: Run, images: readonly ProjectImage[]): ProjectImage[] {
    const found = run.images.flatMap((id) => images.find((image) => image.id === id) ?? []);
    if (found.length < run.images.length) {
      throw new ConfigError(
        'images of this training were removed, so it cannot be continued; go back to the start',
      );
    }
    return found;
  }

  #told(step: RecordedStep & { readonly milliseconds: number }, { say }: TrainingRequest): void {
    const { milliseconds, ...recorded } = step;
    this.#steps.push(recorded);
    const done = this.#steps.length;
    const [box, objectness, category] = step.items.map((item) => item.toPrecision(3));
    byId<HTMLProgressElement>('progress').value = done / this.#planned;
    byId('numbers').textContent =
      `Step ${done} of ${this.#planned}, loss ${lossOf(step).toPrecision(4)} (box ${box}, objectness ` +
      `${objectness}, class ${category}), ` +
      `${Math.round(milliseconds)} ms per step${step.skipped ? '; skipped, as it was not finite' : ''}`;
    drawCurve(byId<HTMLCanvasElement>('curve'), this.#steps.map(lossOf), this.#planned);
    if (done === 1) say('Training …');
  }

  #setRunning(isRunning: boolean): void {
    this.#running = isRunning;
    byId<HTMLButtonElement>('stop').disabled = !isRunning;
  }
}

function readSettings(): RunSettings {
  const number = (id: string): number => byId<HTMLInputElement>(id).valueAsNumber;
  const isChecked = (id: string): boolean => byId<HTMLInputElement>(id).checked;
  return {
    epochs: number('epochs'),
    lr0: number('rate'),
    seed: number('seed'),
    flips: { mirror: isChecked('mirror') ? 0.5 : 0, flip: isChecked('flip') ? 0.5 : 0 },
  };
}

function judgedOf(run: Run, images: readonly ProjectImage[]): ProjectImage[] {
  return run.judged.flatMap((id) => images.find((image) => image.id === id) ?? []);
}

/** Loss per image: the sum of the terms. */
function lossOf({ items }: Pick<RecordedStep, 'items'>): number {
  return items[0] + items[1] + items[2];
}
