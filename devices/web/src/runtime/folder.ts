/** An artifacts folder, wherever its files come from, verified before anything is built of it. */

import { type Bytes, sha256 } from './bytes.ts';
import { ArtifactError, excerpt } from './errors.ts';
import { MAX_MANIFEST_BYTES } from './limits.ts';
import { MANIFEST, type Manifest, readManifest } from './manifest.ts';

export const STATE = 'state.safetensors';
export const TRAIN_STEP = 'train_step.onnx';
export const EVAL_STEP = 'eval_step.onnx';
export const INFERENCE = 'inference.onnx';

/** Files of a folder, by name. */
export interface FileSource {
  /** Return a file's content; null if there is no such file. Longer files may be refused. */
  read(name: string, mostBytes: number): Promise<Bytes | null>;
}

export interface Artifact {
  readonly manifest: Manifest;
  readonly files: ReadonlyMap<string, Bytes>; // every file that the manifest names
  readonly manifestContent: Bytes;
}

/**
 * Read and verify a folder of the portable step.
 *
 * @param told Called with the name of each file once it is verified.
 * @throws ArtifactError if a file is missing or differs from the exported one, or the folder holds
 *   something else.
 */
export async function openArtifact(
  source: FileSource,
  { told = () => {} }: { told?: (name: string) => void } = {},
): Promise<Artifact> {
  const manifestContent = await source.read(MANIFEST, MAX_MANIFEST_BYTES);
  if (!manifestContent) {
    throw new ArtifactError(
      `this is not an artifacts folder: it has no ${MANIFEST}; choose the folder that ` +
        '`exportloss export` wrote',
    );
  }
  const manifest = await readManifest(manifestContent);
  checkKind(manifest);
  const files = new Map<string, Bytes>();
  for (const [name, entry] of manifest.files) {
    const content = await source.read(name, entry.size);
    if (!content) throw new ArtifactError(`${name} is missing; copy the folder again, or export again`);
    if (content.length !== entry.size) {
      throw new ArtifactError(
        `${name} is damaged: it has ${content.length} bytes, the manifest says ${entry.size}; copy ` +
          'the folder again, or export again',
      );
    }
    const found = await sha256(content);
    if (found !== entry.sha256) {
      throw new ArtifactError(
        `${name} is damaged: its sha256 is ${found.slice(0, 12)}..., the manifest says ` +
          `${excerpt(entry.sha256, 12)}; copy the folder again, or export again`,
      );
    }
    files.set(name, content);
    told(name);
  }
  return { manifest, files, manifestContent };
}

function checkKind(manifest: Manifest): void {
  if (manifest.kind !== 'train-step' || !manifest.layout) {
    throw new ArtifactError(
      `the folder holds ${excerpt(manifest.kind)}; expected a portable step: export it with ` +
        '`exportloss export --format step`',
    );
  }
  if (manifest.precision !== 'float32') {
    throw new ArtifactError(
      `the folder is in ${excerpt(manifest.precision)}, which browsers cannot compute; export it ` +
        'without --precision',
    );
  }
  const missing = [TRAIN_STEP, EVAL_STEP, STATE].find((name) => !manifest.files.has(name));
  if (missing) throw new ArtifactError(`the folder is damaged: its ${MANIFEST} names no ${missing}`);
}
