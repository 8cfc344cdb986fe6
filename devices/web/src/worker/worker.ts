/** The worker: everything that takes longer than a frame. */

import type { Example } from '../runtime/batches.ts';
import { type Bytes } from '../runtime/bytes.ts';
import { ConfigError } from '../runtime/errors.ts';
import { type Artifact, type FileSource, openArtifact, STATE } from '../runtime/folder.ts';
import type { Provider } from '../runtime/graphs.ts';
import { fit, mapLabel, place, planes } from '../runtime/letterbox.ts';
import type { Image } from '../runtime/resize.ts';
import { checkTraining, type Difference } from '../runtime/self_check.ts';
import { TrainSession } from '../runtime/session.ts';
import { readState } from '../runtime/state.ts';
import { trainEpoch } from '../runtime/trainer.ts';
import { validate } from '../runtime/validate.ts';
import { decodeImage } from './decode.ts';
import { loadEngine, usableThreads } from './engine.ts';
import type {
  FolderFiles,
  LabelledImage,
  Opened,
  OpenRequest,
  StateRequest,
  StateSummary,
  Told,
  TrainOutcome,
  TrainRequest,
  Work,
} from './protocol.ts';
import { serve, tell, type WorkerScope } from './rpc.ts';

const scope: WorkerScope = globalThis;

let session: TrainSession | null = null;
let stopping = false;
const decoded = new Map<string, Image>(); // by the image's id

const work: Work = {
  open,
  load,
  reset,
  train,
  stop: () => {
    stopping = true;
  },
  validate: async (images) => {
    const examples = await Promise.all(images.map((image) => prepare(image, true)));
    return validate(opened(), examples);
  },
  save: () => opened().save(),
  exportDetector: () => opened().exportDetector(),
};

serve(scope, work, ['stop']);

async function open({ files, provider }: OpenRequest): Promise<Opened> {
  const started = performance.now();
  const verified: string[] = [];
  const artifact = await openArtifact(sourceOf(files), {
    told: (name) => {
      verified.push(name);
      tell<Told, 'verified'>(scope, 'verified', name);
    },
  });
  await session?.close();
  session = null;
  const threads = usableThreads();
  const next = await openSession(artifact, provider, threads);
  session = next.session;
  const processor = `processor, ${threads} ${threads === 1 ? 'thread' : 'threads'}`;
  return {
    manifest: artifact.manifest,
    verified,
    engine: `ONNX Runtime ${next.session.engine.ort.env.versions.web ?? ''}, ${
      provider === 'webgpu' ? 'WebGPU' : processor
    }`,
    differences: next.differences,
    seconds: (performance.now() - started) / 1000,
  };
}

/** Open a session; a device other than the processor must first compute one step as it does. */
async function openSession(
  artifact: Artifact,
  provider: Provider,
  threads: number,
): Promise<{ session: TrainSession; differences: readonly Difference[] }> {
  const engine = await loadEngine(provider, threads);
  const session = await TrainSession.open(artifact, engine);
  if (provider === 'wasm') return { session, differences: [] };
  const reference = await TrainSession.open(artifact, { ...engine, provider: 'wasm' });
  try {
    return { session, differences: await checkTraining(session, reference, 'WebGPU') };
  } catch (error) {
    await session.close();
    throw error;
  } finally {
    await reference.close();
  }
}

async function load({ content, name, fresh }: StateRequest): Promise<StateSummary> {
  const own = opened();
  const state = await readState(content, name, own.manifest);
  if (fresh) await own.startFrom(state, name);
  else own.loadState(state, name);
  return { updates: own.updates, skipped: own.skipped };
}

async function reset(): Promise<StateSummary> {
  const { files } = opened().artifact;
  return load({ content: files.get(STATE)!, name: STATE, fresh: false });
}

async function train({ images, settings, epoch }: TrainRequest): Promise<TrainOutcome> {
  const own = opened();
  const started = performance.now();
  stopping = false;
  const examples = await Promise.all(images.map((image) => prepare(image, false)));
  let complete = epoch;
  let last: Bytes | null = null;
  while (complete < settings.epochs && !stopping) {
    last ??= await own.save();
    let then = performance.now();
    const isWhole = await trainEpoch(own, examples, settings, complete, async (step) => {
      const now = performance.now();
      tell<Told, 'step'>(scope, 'step', { ...step, milliseconds: now - then });
      then = now;
      await nextTask();
      return !stopping;
    });
    if (!isWhole) {
      // Only whole epochs count, so that a stopped training continues as if it had not been.
      own.loadState(await readState(last, 'the last state'), 'the last state');
      break;
    }
    complete += 1;
    last = await own.save();
    tell<Told, 'epoch'>(scope, 'epoch', { epochs: complete, state: last });
  }
  const seconds = (performance.now() - started) / 1000;
  return { epochs: complete, seconds, updates: own.updates, skipped: own.skipped };
}

/** Decode an image and place it on the graph's canvas; validation shrinks as Python's does. */
async function prepare(image: LabelledImage, area: boolean): Promise<Example> {
  let pixels = decoded.get(image.id);
  if (!pixels) {
    pixels = await decodeImage(image.blob, image.name);
    decoded.set(image.id, pixels);
  }
  const { imageSize } = opened().manifest;
  const box = fit([pixels.height, pixels.width], imageSize, { truncate: true });
  return {
    name: image.name,
    planes: planes(place(pixels, box, { area })),
    labels: image.labels.map((label) => mapLabel(label, box)),
    box,
  };
}

/** Let messages in: a computation resolves its promises without ever ending the task. */
function nextTask(): Promise<void> {
  return new Promise((resolve) => {
    setTimeout(resolve);
  });
}

function opened(): TrainSession {
  if (!session) throw new ConfigError('no detector is open; choose an artifacts folder first');
  return session;
}

function sourceOf(files: FolderFiles): FileSource {
  return {
    read: async (name, mostBytes) => {
      const file = files.get(name);
      if (!file) return null;
      if (!(file instanceof Blob)) return file;
      return new Uint8Array(await file.slice(0, mostBytes + 1).arrayBuffer());
    },
  };
}
