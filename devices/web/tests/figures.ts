/**
 * The figures and the screenshot of docs/web.md: 20 images, 100 steps.
 *
 *     node --import ./tests/typescript.mjs tests/figures.ts ARTIFACTS STATE OUTPUT
 *
 * Starts from the weights of STATE, trains on dark images of shapes, and prints what it took.
 */

import { join, resolve } from 'node:path';
import { loadavg } from 'node:os';
import type { AddressInfo } from 'node:net';

import { serve } from '../serve.mjs';
import type { RunFile } from '../src/page/run_file.ts';
import { launch, openPage, WITHOUT_GPU } from './chromium.ts';
import { ROOT } from './data.ts';
import { chooseImage, drop, holdOut, isReady, labelFile, save, setRun, shapes, train } from './user.ts';

const [artifacts, state, output] = process.argv.slice(2).map((path) => resolve(path)) as [string, string, string];
const images = shapes('train', 20);
const validation = shapes('val', 8);

const server = await serve(join(ROOT, 'build/web/site'));
const browser = await launch(WITHOUT_GPU);
const page = await openPage(
  await browser.newContext({ viewport: { width: 1180, height: 900 } }),
  `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
  [],
);
await isReady(page);
await page.locator('#folder').setInputFiles(artifacts);
await isReady(page);
await page.locator('summary', { hasText: 'An earlier state' }).click();
await page.locator('#start-state').setInputFiles(state);
await isReady(page);
await page.locator('summary', { hasText: 'An earlier state' }).click();
await drop(page, [...images, ...validation]);
await isReady(page);
await drop(page, [...images, ...validation].map(labelFile));
await isReady(page);
await holdOut(page, validation);
await chooseImage(page, images[5]!.name);
await page.locator('#flip').check();
await setRun(page, 20, 0.01);
const before = loadavg()[0]!;
await train(page);
console.log(`load ${before.toFixed(1)} before, ${loadavg()[0]!.toFixed(1)} after`);
const run = JSON.parse((await save(page, '#download-record', join(output, 'run.json'))).toString()) as RunFile;
console.log(run.engine, run.seconds, run.before, run.after);
await page.evaluate(() => scrollTo(0, 0));
await page.screenshot({ path: join(output, 'web.png'), fullPage: true });
await page.emulateMedia({ colorScheme: 'dark' });
await page.screenshot({ path: join(output, 'web-dark.png'), fullPage: true });
await browser.close();
server.close();
