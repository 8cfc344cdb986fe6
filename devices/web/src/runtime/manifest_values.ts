/** Values of a manifest's JSON, each of the type that every language's reader expects. */

import { excerpt } from './errors.ts';

const MOST = Number.MAX_SAFE_INTEGER;

/** Return a whole number from `least` to `most`. */
export function integer(value: unknown, what: string, least = -MOST, most = MOST): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < least || value > most) {
    throw new TypeError(`${what} is ${shown(value)}, expected an integer from ${least} to ${most}`);
  }
  return value;
}

export function number(value: unknown, what: string): number {
  if (typeof value !== 'number') throw new TypeError(`${what} is ${shown(value)}, expected a number`);
  return value;
}

export function text(value: unknown, what: string): string {
  if (typeof value !== 'string' || /\p{Surrogate}/u.test(value)) {
    throw new TypeError(`${what} is ${shown(value)}, expected a text`);
  }
  return value;
}

export function flag(value: unknown, what: string): boolean {
  if (typeof value !== 'boolean') throw new TypeError(`${what} is ${shown(value)}, expected true or false`);
  return value;
}

export function list(value: unknown, what: string): unknown[] {
  if (!Array.isArray(value)) throw new TypeError(`${what} is ${shown(value)}, expected a list`);
  return value;
}

export function texts(value: unknown, what: string): string[] {
  return list(value, what).map((each) => text(each, what));
}

export function record(value: unknown, what: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new TypeError(`${what} is ${shown(value)}, expected an object`);
  }
  return value as Record<string, unknown>;
}

function shown(value: unknown): string {
  return excerpt(JSON.stringify(value) ?? 'missing');
}

/** Return whether a text is of printable characters, at most `longest` of them. */
export function isPrintable(value: string, longest: number): boolean {
  return [...value].length <= longest && !/[\p{C}\p{Zl}\p{Zp}]|(?! )\p{Zs}/u.test(value);
}
