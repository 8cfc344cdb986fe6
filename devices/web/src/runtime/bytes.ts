/** Bytes, texts and digests. */

export type Bytes = Uint8Array<ArrayBuffer>;

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

export function encode(text: string): Bytes {
  return encoder.encode(text);
}

/** Decode UTF-8; throws a TypeError for other bytes. */
export function decode(content: Uint8Array): string {
  return decoder.decode(content);
}

export function concat(parts: readonly Uint8Array[]): Bytes {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let position = 0;
  for (const part of parts) {
    whole.set(part, position);
    position += part.length;
  }
  return whole;
}

export function equal(some: Uint8Array, others: Uint8Array): boolean {
  return some.length === others.length && some.every((byte, index) => byte === others[index]);
}

/** Return the SHA-256 of bytes, in hexadecimal. */
export async function sha256(content: Uint8Array): Promise<string> {
  // Copies what lies in memory that other threads may write, which digest() does not take.
  const own = content.buffer instanceof ArrayBuffer ? (content as Bytes) : new Uint8Array(content);
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', own));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** Compare by code points, as Python sorts; JavaScript's own order is by UTF-16 units. */
export function byCodePoint(some: string, other: string): number {
  const [a, b] = [[...some], [...other]];
  for (let index = 0; index < Math.min(a.length, b.length); index++) {
    const difference = a[index]!.codePointAt(0)! - b[index]!.codePointAt(0)!;
    if (difference) return difference;
  }
  return a.length - b.length;
}
