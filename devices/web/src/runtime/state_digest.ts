/** The checksum of a state: over its metadata and tensors, in a form of its own. */

import { byCodePoint, concat, encode, sha256 } from './bytes.ts';
import { ArtifactError, excerpt } from './errors.ts';
import { asJson, type StoredTensor, type TensorFile } from './tensor_file.ts';

const FAMILY = 'exportloss-state';
const NEWEST = 1;
const NUMPY: ReadonlyMap<string, string> = new Map([['F32', 'float32']]);

type About = ReadonlyMap<string, string>;

/** Add format and checksum to metadata. */
export async function sign(
  tensors: ReadonlyMap<string, StoredTensor>,
  about: About,
): Promise<Map<string, string>> {
  const whole = new Map([...about, ['format', `${FAMILY}/${NEWEST}`]]);
  return whole.set('sha256', await digest(tensors, whole));
}

/**
 * Check a file's format and checksum.
 *
 * @throws ArtifactError if the content is damaged, or written by a later version.
 */
export async function checkDigest(file: TensorFile, source: string): Promise<void> {
  const about = new Map(file.about);
  const format = about.get('format') ?? '';
  const number = Number(new RegExp(`^${FAMILY}/([1-9]\\d{0,5})$`).exec(format)?.[1] ?? 0);
  const found = about.get('sha256');
  if (number === 0 || (found === undefined && number <= NEWEST)) {
    throw new ArtifactError(
      `${source} has format '${excerpt(format)}'; expected a training state, '${FAMILY}/${NEWEST}'`,
    );
  }
  about.delete('sha256');
  if (number <= NEWEST && found !== (await digest(file.tensors, about))) {
    throw new ArtifactError(`${source} is damaged: its content does not match its sha256`);
  }
  if (number > NEWEST) {
    throw new ArtifactError(
      `${source} was written by a newer exportloss (format ${number}; this page reads up to ` +
        `${NEWEST}); use a newer page`,
    );
  }
}

async function digest(tensors: ReadonlyMap<string, StoredTensor>, about: About): Promise<string> {
  const texts = [...about].sort(([a], [b]) => byCodePoint(a, b));
  const json = texts.map(([key, text]) => `${asJson(key)}: ${asJson(text)}`).join(', ');
  const parts: Uint8Array[] = [encode(`{${json}}`)];
  for (const [name, { dtype, shape, content }] of [...tensors].sort(([a], [b]) => byCodePoint(a, b))) {
    const sizes = shape.length === 1 ? `${shape[0]},` : shape.join(', ');
    parts.push(encode(`${name} ${NUMPY.get(dtype) ?? dtype} (${sizes})`), content);
  }
  return sha256(concat(parts));
}
