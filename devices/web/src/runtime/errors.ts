/** Errors of the library; each message says what was found, what was expected and what to do. */

/** Why something was refused, as the test vectors name it (tests/vectors/README.md). */
export type Refusal =
  | 'not-safetensors'
  | 'not-a-state'
  | 'not-an-artifact'
  | 'damaged'
  | 'newer'
  | 'incomplete'
  | 'values'
  | 'unreadable'
  | 'missing'
  | 'too-large'
  | 'too-many'
  | 'outside'
  | 'bad-rows'
  | 'shape';

export class ExportLossError extends Error {
  override name = 'ExportLossError';
}

/** A file is missing, damaged, or not what it has to be. */
export class ArtifactError extends ExportLossError {
  override name = 'ArtifactError';
  readonly reason: Refusal | null;

  constructor(message: string, reason: Refusal | null = null) {
    super(message);
    this.reason = reason;
  }
}

/** A setting is out of range. */
export class ConfigError extends ExportLossError {
  override name = 'ConfigError';
}

/** An image or a label cannot be used. */
export class DataError extends ExportLossError {
  override name = 'DataError';
}

/** A device does not compute what the processor computes. */
export class DeviceError extends ExportLossError {
  override name = 'DeviceError';
}

/** Target rows cannot be trained on. */
export class TargetError extends ExportLossError {
  override name = 'TargetError';
  readonly reason: Refusal;

  constructor(message: string, reason: Refusal = 'bad-rows') {
    super(message);
    this.reason = reason;
  }
}

/** There are more target rows than the graph takes. */
export class TooManyTargetsError extends TargetError {
  override name = 'TooManyTargetsError';

  constructor(message: string) {
    super(message, 'too-many');
  }
}

/** A training cannot go on. */
export class TrainingError extends ExportLossError {
  override name = 'TrainingError';
}

/** Cut a text from a file to a length that fits a message. */
export function excerpt(text: string, length = 60): string {
  return text.length <= length ? text : `${text.slice(0, length)}...`;
}

/** Join the first entries of a list, and count the others. */
export function listed(entries: readonly string[], most: number, separator = ', '): string {
  const rest = entries.length - most;
  const shown = entries.slice(0, most);
  return (rest > 0 ? [...shown, `and ${rest} more`] : shown).join(separator);
}
