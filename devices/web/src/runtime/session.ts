/** A detector in training: `train_step.onnx`, run again and again on the state it returns. */

import type * as Ort from 'onnxruntime-web';

import type { Bytes } from './bytes.ts';
import { makeDetectorFile } from './detector_file.ts';
import { ArtifactError, DataError } from './errors.ts';
import { type FlatLayout, join, sizeOf, split, type Tensor } from './flat_layout.ts';
import { type Artifact, EVAL_STEP, INFERENCE, STATE } from './folder.ts';
import { EMA, type Engine, lossOf, NEW, openGraph, openStep, OPTIMIZER } from './graphs.ts';
import type { Manifest } from './manifest.ts';
import { product } from './numbers.ts';
import { emaDecay } from './schedule.ts';
import { checkSameModel, checkValues, formatState, readState, type TrainState } from './state.ts';
import { padTargets, type TargetRow } from './targets.ts';

export interface StepSettings {
  readonly lr: readonly [number, number, number]; // of weights, norms and biases
  readonly momentum: number;
  readonly weightDecay: number;
  readonly maxNorm: number; // L2 norm that the gradients are scaled down to; Infinity for no limit
  readonly update: boolean; // false only adds to the gradients
}

export interface StepResult {
  readonly loss: number; // (box + objectness + class) * batch size
  readonly items: readonly [number, number, number]; // box, objectness, class
  readonly skipped: boolean; // true if the step changed nothing, as its results were not finite
}

export interface Evaluation {
  readonly loss: number;
  readonly items: readonly [number, number, number];
  readonly predictions: Float32Array; // (B, N, 5 + classes)
  readonly rows: number; // N
}

type Vectors = ReadonlyMap<string, Ort.Tensor>;

/**
 * Session over an artifact.
 *
 * The state has two sets of tensors: a step reads one and makes the other, which takes its place
 * once the step is complete, so a step that fails changes nothing.
 */
export class TrainSession {
  readonly artifact: Artifact;
  readonly engine: Engine;
  readonly #train: Ort.InferenceSession;
  readonly #flat: ReadonlyMap<string, FlatLayout>;
  #evaluation: Ort.InferenceSession | null = null;
  #vectors: Vectors = new Map();
  #constants: ReadonlyMap<string, Tensor> = new Map(); // frozen tensors
  #own: TrainState; // a state of this model, for its names and shapes
  #updates = 0;
  #due = 0; // updates, done or skipped

  private constructor(artifact: Artifact, engine: Engine, train: Ort.InferenceSession, start: TrainState) {
    this.artifact = artifact;
    this.engine = engine;
    this.#train = train;
    const layout = artifact.manifest.layout!;
    this.#flat = new Map(
      [
        ['parameters', layout.parameters] as const,
        ['statistics', layout.statistics] as const,
      ].filter(([, flat]) => flat.length),
    );
    this.#own = start;
  }

  /**
   * Open an artifact with the state that it was exported with.
   *
   * @throws ArtifactError if a graph cannot be run, or is not what the manifest says.
   */
  static async open(artifact: Artifact, engine: Engine): Promise<TrainSession> {
    const start = await readState(artifact.files.get(STATE)!, STATE, artifact.manifest);
    const train = await openStep(artifact, engine);
    const session = new TrainSession(artifact, engine, train, start);
    session.#take(start);
    return session;
  }

  get manifest(): Manifest {
    return this.artifact.manifest;
  }

  get updates(): number {
    return this.#updates;
  }

  /** Number of updates skipped because their results would not have been finite. */
  get skipped(): number {
    return this.#due - this.#updates;
  }

  /**
   * Train on a batch.
   *
   * @param images (B, 3, H, W) RGB, 0 to 255.
   * @throws TargetError if a row cannot be trained on.
   */
  async step(images: Uint8Array, rows: readonly TargetRow[], settings: StepSettings): Promise<StepResult> {
    const { ort } = this.engine;
    const scalar = (value: number): Ort.Tensor => new ort.Tensor('float32', [value], []);
    const inputs: Record<string, Ort.Tensor> = {
      ...this.#batch(images, rows),
      learning_rates: new ort.Tensor('float32', settings.lr, [3]),
      momentum: scalar(settings.momentum),
      weight_decay: scalar(settings.weightDecay),
      max_norm: scalar(settings.maxNorm),
      update: new ort.Tensor('bool', [settings.update], []),
      ...(this.manifest.ema && { ema_decay: scalar(emaDecay(this.#updates + 1)) }),
      ...Object.fromEntries(this.#vectors),
    };
    const outputs = await this.#train.run(inputs);
    const next = new Map([...this.#vectors.keys()].map((name) => [name, outputs[NEW + name]!]));
    this.#replace(next);
    this.#updates = (await next.get('updates')!.getData())[0] as number;
    this.#due += Number(settings.update);
    return { ...(await lossOf(outputs)), skipped: Boolean((await outputs['skipped']?.getData())?.[0]) };
  }

  /** Compute loss and boxes with the running statistics, and the moving average if there is one. */
  async evaluate(images: Uint8Array, rows: readonly TargetRow[]): Promise<Evaluation> {
    this.#evaluation ??= await openGraph(this.artifact, EVAL_STEP, this.engine);
    const outputs = await this.#evaluation.run({
      ...this.#batch(images, rows),
      ...Object.fromEntries(this.#weights()),
      balance: this.#vectors.get('balance')!,
    });
    const decoded = outputs['output0'];
    if (!decoded) throw new ArtifactError(`${EVAL_STEP} has no boxes, because its model has no decode`);
    return {
      ...(await lossOf(outputs)),
      predictions: (await decoded.getData()) as Float32Array,
      rows: decoded.dims[1]!,
    };
  }

  /** Return a copy of the state. */
  async state(): Promise<TrainState> {
    const layout = this.manifest.layout!;
    const read = async (name: string): Promise<Float32Array> =>
      Float32Array.from((await this.#vectors.get(name)!.getData()) as Float32Array);
    const trained = async (prefix: string): Promise<Map<string, Tensor>> => {
      const parts = await Promise.all(
        [...this.#flat].map(async ([what, flat]) => [...split(flat, await read(prefix + what))]),
      );
      return new Map(parts.flat());
    };
    const optimizer = new Map<string, Map<string, Tensor>>();
    for (const kept of layout.optimizerState) {
      optimizer.set(kept, split(layout.parameters, await read(OPTIMIZER + kept)));
    }
    const balance = await read('balance');
    return {
      model: new Map([...this.#constants, ...(await trained(''))]),
      optimizer,
      balance: { shape: [balance.length], data: balance },
      updates: this.#updates,
      skipped: this.skipped,
      ema: this.manifest.ema ? await trained(EMA) : new Map(),
    };
  }

  /**
   * Take over a state of the same model; gradients that wait for an update are dropped.
   *
   * @param source Name of its origin, for messages.
   * @throws ArtifactError if the state is of another model; the session is then unchanged.
   */
  loadState(state: TrainState, source: string): void {
    checkValues(state, source);
    checkSameModel(state, this.#own, source);
    this.#take(state);
  }

  /**
   * Begin a new training from the weights of a state: its moving average if it has one. The
   * optimizer starts afresh.
   */
  async startFrom(state: TrainState, source: string): Promise<void> {
    const fresh = await readState(this.artifact.files.get(STATE)!, STATE, this.manifest);
    const model = new Map([...state.model, ...state.ema]);
    const ema = new Map([...fresh.ema.keys()].flatMap((name) => {
      const tensor = model.get(name);
      return tensor ? [[name, tensor] as const] : [];
    }));
    this.loadState({ ...fresh, model, ema }, source);
  }

  /** Return the content of a state's file. */
  async save(): Promise<Bytes> {
    const state = await this.state();
    checkValues(state, 'the training');
    return formatState(state, this.manifest);
  }

  /** Return the detector as a plain ONNX file: `images` in, `output0` out. */
  async exportDetector(): Promise<Bytes> {
    const graph = this.artifact.files.get(INFERENCE);
    if (!graph) {
      throw new ArtifactError(`the folder has no ${INFERENCE}, because its model has no decode`);
    }
    const weights = new Map<string, Float32Array>();
    for (const [name, tensor] of this.#weights()) {
      weights.set(name, (await tensor.getData()) as Float32Array);
    }
    return makeDetectorFile(graph, weights);
  }

  async close(): Promise<void> {
    this.#replace(new Map());
    await this.#train.release();
    await this.#evaluation?.release();
    this.#evaluation = null;
  }

  #batch(images: Uint8Array, rows: readonly TargetRow[]): Record<string, Ort.Tensor> {
    const { batchSize, imageSize, maxTargets, names } = this.manifest;
    const shape = [batchSize, 3, ...imageSize];
    if (images.length !== product(shape)) {
      throw new DataError(`images have ${images.length} values; expected (${shape.join(', ')})`);
    }
    const targets = padTargets(rows, { maxTargets, batchSize, numClasses: names.length });
    const { ort } = this.engine;
    return {
      images: new ort.Tensor('uint8', images, shape),
      targets: new ort.Tensor('float32', targets, [maxTargets, 6]),
    };
  }

  /** Vectors of the detector, by their names in the graphs. */
  #weights(): Map<string, Ort.Tensor> {
    const prefix = this.manifest.ema ? EMA : '';
    return new Map([...this.#flat.keys()].map((what) => [what, this.#vectors.get(prefix + what)!]));
  }

  #take(state: TrainState): void {
    const layout = this.manifest.layout!;
    const vectors = new Map<string, Float32Array>();
    for (const [what, flat] of this.#flat) {
      vectors.set(what, join(flat, state.model));
      if (this.manifest.ema) vectors.set(EMA + what, join(flat, state.ema));
    }
    for (const kept of layout.optimizerState) {
      const tensors = state.optimizer.get(kept);
      if (!tensors) throw new ArtifactError(`the state lacks the optimizer's '${kept}'`);
      vectors.set(OPTIMIZER + kept, join(layout.parameters, tensors));
    }
    vectors.set('gradients', new Float32Array(sizeOf(layout.parameters)));
    vectors.set('balance', state.balance.data.slice());
    const { ort } = this.engine;
    const trained = new Set([...this.#flat.values()].flatMap((flat) => flat.map(({ name }) => name)));
    const tensors = [...vectors].map(([name, data]) => {
      return [name, new ort.Tensor('float32', data, [data.length])] as const;
    });
    const updates = new ort.Tensor('float32', [state.updates], []);
    this.#constants = new Map([...state.model].filter(([name]) => !trained.has(name)));
    this.#updates = state.updates;
    this.#due = state.updates + state.skipped;
    this.#replace(new Map([...tensors, ['updates', updates]]));
  }

  #replace(next: Vectors): void {
    for (const tensor of this.#vectors.values()) tensor.dispose();
    this.#vectors = next;
  }
}
