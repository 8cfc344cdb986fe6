/** What a user does on the page. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import type { Page } from 'playwright-core';

import type { Label } from '../src/runtime/letterbox.ts';
import { DATA } from './data.ts';

const PATIENCE = 300_000; // milliseconds, for a busy machine

export interface TestImage {
  readonly name: string;
  readonly content: string; // base64
  readonly labels: readonly Label[];
}

/** Images of the drawn data set, with their true boxes. */
export function shapes(split: 'train' | 'val', count: number): TestImage[] {
  return Array.from({ length: count }, (_, index) => {
    const stem = String(index).padStart(5, '0');
    const text = readFileSync(join(DATA, 'shapes/labels', split, `${stem}.txt`), 'utf8');
    const labels = text.trim().split('\n').map((line) => line.split(' ').map(Number) as unknown as Label);
    const content = readFileSync(join(DATA, 'shapes/images', split, `${stem}.png`)).toString('base64');
    return { name: `${split}-${stem}.png`, content, labels };
  });
}

/** Drop files on the page. */
export async function drop(page: Page, files: readonly { name: string; content: string }[]): Promise<void> {
  const transfer = await page.evaluateHandle((given) => {
    const made = new DataTransfer();
    for (const { name, content } of given) {
      const bytes = Uint8Array.from(atob(content), (unit) => unit.charCodeAt(0));
      const type = name.endsWith('.png') ? 'image/png' : '';
      made.items.add(new File([bytes], name, { type }));
    }
    return made;
  }, files);
  await page.dispatchEvent('body', 'drop', { dataTransfer: transfer });
}

export async function isReady(page: Page): Promise<void> {
  const status = page.locator('#status');
  await status.filter({ hasText: /^(Ready\.)?$/ }).waitFor({ timeout: PATIENCE });
  const error = page.locator('#error');
  if (await error.isVisible()) assert.fail(`the page says: ${await error.textContent()}`);
}

/** Wait for an error and return it. */
export async function errorOf(page: Page): Promise<string> {
  const error = page.locator('#error');
  await error.waitFor({ timeout: PATIENCE });
  return (await error.textContent())!;
}

export async function chooseImage(page: Page, name: string): Promise<void> {
  await page.locator(`#gallery button[title="${name}"]`).click();
  await page.locator(`#gallery button[title="${name}"][aria-current="true"]`).waitFor();
  await page.waitForFunction(() => {
    const canvas = document.querySelector<HTMLCanvasElement>('#drawing')!;
    return canvas.clientWidth > 50;
  });
}

/** Draw boxes on the image that is shown, with the mouse. */
export async function drawBoxes(page: Page, labels: readonly Label[]): Promise<void> {
  const canvas = page.locator('#drawing');
  await canvas.scrollIntoViewIfNeeded();
  const frame = (await canvas.boundingBox())!;
  for (const [category, x, y, width, height] of labels) {
    await canvas.press('Escape');
    await page.locator('#class').selectOption(String(category));
    const at = (across: number, down: number): [number, number] => [
      frame.x + across * frame.width,
      frame.y + down * frame.height,
    ];
    await page.mouse.move(...at(x - width / 2, y - height / 2));
    await page.mouse.down();
    await page.mouse.move(...at(x, y));
    await page.mouse.move(...at(x + width / 2, y + height / 2));
    await page.mouse.up();
  }
}

export async function setRun(page: Page, epochs: number, rate: number): Promise<void> {
  await page.locator('#epochs').fill(String(epochs));
  await page.locator('#rate').fill(String(rate));
}

/** A label file of an image. */
export function labelFile({ name, labels }: TestImage): { name: string; content: string } {
  const text = labels.map((row) => row.join(' ')).join('\n');
  return { name: name.replace('.png', '.txt'), content: Buffer.from(text).toString('base64') };
}

/** Mark images for validation. */
export async function holdOut(page: Page, images: readonly TestImage[]): Promise<void> {
  for (const image of images) {
    await chooseImage(page, image.name);
    await page.locator('#validation').check();
  }
}

/** Train until the page is done. */
export async function train(page: Page): Promise<void> {
  await page.locator('#start').click();
  await page.locator('#status').filter({ hasText: /before the training|Training/ }).waitFor();
  await isReady(page);
}

export async function save(page: Page, button: string, path: string): Promise<Buffer> {
  const [download] = await Promise.all([page.waitForEvent('download'), page.locator(button).click()]);
  await download.saveAs(path);
  return readFileSync(path);
}
