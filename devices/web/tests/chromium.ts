/** Debian's Chromium, driven by Playwright. */

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';

import { type Browser, type BrowserContext, chromium, type Page } from 'playwright-core';

const QUIET = [
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--use-fake-device-for-media-stream',
  '--use-fake-ui-for-media-stream',
];
export const WITHOUT_GPU = ['--disable-gpu'];
/** WebGPU on the processor, for the self-check. */
export const SOFTWARE_GPU = [
  '--enable-unsafe-webgpu',
  '--use-webgpu-adapter=swiftshader',
  '--enable-features=Vulkan',
];

export function launch(gpu: readonly string[]): Promise<Browser> {
  const executablePath = process.env['CHROMIUM'] ?? '/usr/bin/chromium';
  assert.ok(existsSync(executablePath), `no ${executablePath}: install Chromium, or name it in CHROMIUM`);
  const isRoot = process.getuid?.() === 0; // whom Chromium's sandbox refuses
  return chromium.launch({ executablePath, args: [...QUIET, ...gpu, ...(isRoot ? ['--no-sandbox'] : [])] });
}

/** Open a page that may talk to its own server only, and must say nothing on the console. */
export async function openPage(context: BrowserContext, url: string, problems: string[]): Promise<Page> {
  const { origin } = new URL(url);
  context.on('request', (request) => {
    const address = request.url();
    if (!address.startsWith(origin) && !/^(blob|data):/.test(address)) problems.push(`asked for ${address}`);
  });
  const page = await context.newPage();
  page.on('pageerror', (error) => problems.push(error.stack ?? error.message));
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) problems.push(`${message.type()}: ${message.text()}`);
  });
  page.on('crash', () => problems.push('the page crashed'));
  await page.goto(url);
  return page;
}
