/** An artifacts folder, wherever its files come from, verified before anything is built of it. */

import { type Bytes, sha256 } from './bytes.ts';
import { checkContents, EVAL_STEP, STATE, TRAIN_STEP } from './contents.ts';
import { ArtifactError, excerpt } from './errors.ts';
import { MAX_ARTIFACT_FILES, MAX_MANIFEST_BYTES, MAX_MODEL_BYTES, MAX_STATE_BYTES } from './limits.ts';
import { type FileEntry, MANIFEST, type Manifest, readManifest } from './manifest.ts';
import { isPrintable } from './manifest_values.ts';

export { EVAL_STEP, INFERENCE, STATE, TRAIN_STEP } from './contents.ts';

const LONGEST_NAME = 255; // characters of a file's name
const AGAIN = 'copy the folder again, or export again';

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
  const files = await readListedFiles(source, manifest.files, told);
  checkContents(manifest, files);
  return { manifest, files, manifestContent };
}

/**
 * Return the content of listed files, once size and SHA-256 of each have been checked.
 *
 * @throws ArtifactError if a file is missing, differs from the exported one, or has a name that is
 *   none of the folder.
 */
export async function readListedFiles(
  source: FileSource,
  listed: ReadonlyMap<string, FileEntry>,
  told: (name: string) => void = () => {},
): Promise<Map<string, Bytes>> {
  if (listed.size > MAX_ARTIFACT_FILES) {
    throw new ArtifactError(
      `the manifest names ${listed.size} files; expected at most ${MAX_ARTIFACT_FILES}`,
      'too-many',
    );
  }
  for (const name of listed.keys()) {
    const isPlain = /^[^/\\]+$/.test(name) && isPrintable(name, LONGEST_NAME);
    if (!isPlain || name === '.' || name === '..') {
      throw new ArtifactError(`the manifest names ${excerpt(JSON.stringify(name))}, outside the folder`, 'outside');
    }
  }
  const files = new Map<string, Bytes>();
  for (const [name, entry] of listed) {
    files.set(name, await readListedFile(source, name, entry));
    told(name);
  }
  return files;
}

async function readListedFile(source: FileSource, name: string, entry: FileEntry): Promise<Bytes> {
  const most = name.endsWith('.safetensors') ? MAX_STATE_BYTES : MAX_MODEL_BYTES;
  if (entry.size > most) {
    throw new ArtifactError(`${name} has ${entry.size} bytes; expected at most ${most}`, 'too-large');
  }
  const content = await source.read(name, entry.size);
  if (!content) throw new ArtifactError(`${name} is missing; ${AGAIN}`, 'missing');
  if (content.length !== entry.size) {
    throw new ArtifactError(
      `${name} is damaged: it has ${content.length} bytes, the manifest says ${entry.size}; ${AGAIN}`,
      'damaged',
    );
  }
  const found = await sha256(content);
  if (found !== entry.sha256) {
    throw new ArtifactError(
      `${name} is damaged: its sha256 is ${found.slice(0, 12)}..., the manifest says ` +
        `${excerpt(entry.sha256, 12)}; ${AGAIN}`,
      'damaged',
    );
  }
  return content;
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
