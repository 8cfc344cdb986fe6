/**
 * The page in Chromium, from a folder and images to a trained detector.
 *
 *     node --import ./tests/typescript.mjs tests/browser.ts OUTPUT
 *
 * OUTPUT then holds what the page gave to download, which Python judges (tests/web), and screenshots.
 */

import assert from 'node:assert/strict';
import { mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join, resolve } from 'node:path';

import type { Page } from 'playwright-core';

import { serve } from '../serve.mjs';
import type { RunFile } from '../src/page/run_file.ts';
import { launch, openPage, SOFTWARE_GPU, WITHOUT_GPU } from './chromium.ts';
import { DATA, ROOT } from './data.ts';
import {
  chooseImage,
  drawBoxes,
  drop,
  errorOf,
  holdOut,
  isReady,
  labelFile,
  save,
  setRun,
  shapes,
  train,
} from './user.ts';

const OUTPUT = resolve(process.argv[2]!);
const SITE = join(OUTPUT, 'site');
const TRAIN = shapes('train', 20);
const VAL = shapes('val', 8);
const EPOCHS = 4; // of five steps
// From random weights, rounding grows with every update: at 1e-2 two releases of ONNX Runtime in
// Python are 1e-3 apart after twelve steps.
const RATE = 5e-4;
const FURTHER_RATE = 2e-5;

function addressOf(server: Server): string {
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
}

function say(text: string): void {
  console.log(`${(performance.now() / 1000).toFixed(1).padStart(6)} s  ${text}`);
}

/** Lay out the built page, with a folder of artifacts beside it, and one that is damaged. */
function layOut(): void {
  rmSync(OUTPUT, { recursive: true, force: true });
  mkdirSync(SITE, { recursive: true });
  for (const name of readdirSync(join(ROOT, 'build/web/site'))) {
    symlinkSync(join(ROOT, 'build/web/site', name), join(SITE, name));
  }
  symlinkSync(join(DATA, 'small-sgd'), join(SITE, 'small'));
}

function encoded(name: string, content: Buffer): { name: string; content: string } {
  return { name, content: content.toString('base64') };
}

async function label(page: Page): Promise<void> {
  await drop(page, [...TRAIN, ...VAL]);
  await isReady(page);
  await holdOut(page, VAL);
  await drop(page, VAL.map(labelFile));
  await isReady(page);
  for (const image of TRAIN) {
    await chooseImage(page, image.name);
    await drawBoxes(page, image.labels);
  }
  assert.match((await page.locator('#counts').textContent())!, /^20 to train on, 8 for validation/);
}

/** The boxes that were drawn are those of the data set, to about a pixel of the screen. */
function checkLabels(run: RunFile): void {
  for (const { name, labels } of [...TRAIN, ...VAL]) {
    const drawn = run.labels[name]!;
    assert.equal(drawn.length, labels.length, name);
    drawn.forEach((row, index) => {
      row.forEach((value, place) => {
        const most = place === 0 || name.startsWith('val') ? 1e-6 : 0.006;
        assert.ok(Math.abs(value - labels[index]![place]!) <= most, `${name}: ${row}, expected ${labels[index]}`);
      });
    });
  }
}

async function refusals(page: Page): Promise<void> {
  const damaged = readdirSync(join(DATA, 'small-sgd')).map((name) => {
    const content = Buffer.from(readFileSync(join(DATA, 'small-sgd', name)));
    if (name === 'eval_step.onnx') content[content.length >> 1]! ^= 1;
    return encoded(name, content);
  });
  await drop(page, damaged);
  assert.match(await errorOf(page), /^eval_step\.onnx is damaged: its sha256 is /);
  await drop(page, [encoded('notes.zip', Buffer.from('PK'))]);
  await page.locator('#error').filter({ hasText: /^notes\.zip is no image/ }).waitFor();
  await page.locator('summary', { hasText: 'From this server' }).click();
  for (const [path, said] of [
    ['absent/', /the server says 404; correct the path/],
    ['https://example.org/artifacts/', /^https:\/\/example\.org is another server/],
  ] as const) {
    await page.locator('#path').fill(path);
    await page.locator('#path').press('Enter');
    await page.locator('#error').filter({ hasText: said }).waitFor();
  }
  assert.match((await page.locator('#facts').textContent())!, /yolov5n/); // still open
}

/** Do something about which the browser complains on the console. */
async function expecting(problems: string[], act: () => Promise<void>): Promise<void> {
  const before = problems.length;
  await act();
  problems.length = before;
}

/** Nothing leaves the page: not from the page, not from its worker. */
async function checkPolicy(page: Page): Promise<void> {
  let asked = 0;
  const other = createServer((_, response) => {
    asked += 1;
    response.writeHead(200, { 'Access-Control-Allow-Origin': '*' }).end();
  }).listen(0, '127.0.0.1');
  await new Promise((started) => other.once('listening', started));
  const send = async (url: string): Promise<string> =>
    fetch(url, { method: 'POST', body: 'image' }).then(() => 'sent', () => 'refused');
  assert.equal(await page.evaluate(send, addressOf(other)), 'refused');
  const worker = page.workers().find((each) => each.url().startsWith('blob:'))!;
  assert.equal(await worker.evaluate(send, addressOf(other)), 'refused');
  assert.equal(asked, 0);
  other.close();
}

/** Every control has a name, and nothing is wider than the window. */
async function checkForm(page: Page): Promise<void> {
  const found = await page.evaluate(() => {
    const controls = [...document.querySelectorAll<HTMLInputElement>('button, input, select, canvas, [role=img]')];
    const nameless = controls.filter((control) => {
      const names = [control.getAttribute('aria-label'), control.getAttribute('aria-describedby'), control.textContent];
      return !names.some((name) => name?.trim()) && !control.labels?.length && !control.ariaLabel;
    });
    return {
      nameless: nameless.map((control) => control.outerHTML.slice(0, 100)),
      wide: Math.max(document.documentElement.scrollWidth - screen.width, 0),
    };
  });
  assert.deepEqual(found, { nameless: [], wide: 0 });
}

async function main(): Promise<void> {
  layOut();
  const server = await serve(SITE);
  const plain = await serve(SITE, 0, {}); // a host that sends no headers of ours
  const browser = await launch(WITHOUT_GPU);
  const problems: string[] = [];
  try {
    const context = await browser.newContext({ viewport: { width: 1200, height: 900 }, acceptDownloads: true });
    const page = await openPage(context, addressOf(server), problems);
    await isReady(page);
    await page.locator('#folder').setInputFiles(join(DATA, 'detector'));
    await isReady(page);
    assert.match((await page.locator('#facts').textContent())!, /[4-9] verified \(SHA-256\)/);
    say('the detector is open');
    await label(page);
    say('boxes are drawn');
    await setRun(page, EPOCHS, RATE);
    await page.locator('#flip').check();
    await train(page);
    assert.match((await page.locator('#numbers').textContent())!, /^Complete: 4 of 4 epochs, 20 steps/);
    assert.equal(await page.locator('#pairs .pair').count(), VAL.length);
    say('trained');
    await checkForm(page);
    await page.screenshot({ path: join(OUTPUT, 'page.png'), fullPage: true });
    const state = await save(page, '#download-state', join(OUTPUT, 'state.safetensors'));
    const detector = await save(page, '#download-detector', join(OUTPUT, 'detector.onnx'));
    const record = await save(page, '#download-record', join(OUTPUT, 'run.json'));
    checkLabels(JSON.parse(record.toString()) as RunFile);
    await expecting(problems, () => checkPolicy(page));
    await expecting(problems, () => refusals(page));

    await page.reload();
    await isReady(page);
    assert.ok((await save(page, '#download-state', join(OUTPUT, 'again.safetensors'))).equals(state));
    assert.ok((await save(page, '#download-detector', join(OUTPUT, 'again.onnx'))).equals(detector));
    assert.ok((await save(page, '#download-record', join(OUTPUT, 'again.json'))).equals(record));
    say('a reload has kept everything');

    await setRun(page, 3, FURTHER_RATE);
    await page.locator('#start').click();
    await page.locator('#numbers').filter({ hasText: /^Step [6-9] / }).waitFor({ timeout: 120_000 });
    await page.locator('#stop').click();
    await isReady(page);
    assert.match((await page.locator('#numbers').textContent())!, /^Stopped after 1 of 3 epochs, 5 steps/);
    await page.reload();
    await isReady(page);
    assert.equal(await page.locator('#start').textContent(), 'Continue');
    await train(page);
    assert.match((await page.locator('#numbers').textContent())!, /^Complete: 3 of 3 epochs, 15 steps/);
    await save(page, '#download-state', join(OUTPUT, 'further.safetensors'));
    await save(page, '#download-record', join(OUTPUT, 'further.json'));
    say('stopped, reloaded and continued');
    await context.close();

    const phone = await browser.newContext({
      viewport: { width: 390, height: 844 },
      hasTouch: true,
      isMobile: true,
      colorScheme: 'dark',
    });
    const small = await openPage(phone, addressOf(plain), problems);
    await onPhone(small);
    await expecting(problems, () => checkPolicy(small));
    say('a phone, and a server without headers');
    assert.deepEqual(problems, []);
    await onGpu(addressOf(server));
  } finally {
    await browser.close();
    server.close();
    plain.close();
  }
}

/** A phone: touch, keyboard and camera; one thread, as the server sends no headers. */
async function onPhone(page: Page): Promise<void> {
  await isReady(page);
  await page.locator('summary', { hasText: 'From this server' }).click();
  await page.locator('#path').fill('small');
  await page.locator('#path').press('Enter');
  await page.locator('#facts').filter({ hasText: 'processor, 1 thread;' }).waitFor();
  await isReady(page);
  await page.locator('#start').click();
  assert.match(await errorOf(page), /^there is nothing to learn: add images/);
  await drop(page, TRAIN.slice(0, 2));
  await isReady(page);
  await page.locator('#camera').click();
  await page.locator('#shoot').click();
  await page.locator('#gallery li').nth(2).waitFor();
  await page.locator('#close-camera').click();

  const canvas = page.locator('#drawing');
  await canvas.scrollIntoViewIfNeeded();
  const frame = (await canvas.boundingBox())!;
  const touch = await page.context().newCDPSession(page);
  const send = (type: 'touchStart' | 'touchMove' | 'touchEnd', x = 0, y = 0): Promise<unknown> =>
    touch.send('Input.dispatchTouchEvent', {
      type,
      touchPoints: type === 'touchEnd' ? [] : [{ x: frame.x + x * frame.width, y: frame.y + y * frame.height }],
    });
  await send('touchStart', 0.25, 0.25);
  await send('touchMove', 0.5, 0.5);
  await send('touchMove', 0.75, 0.5);
  await send('touchEnd');
  await page.locator('#boxes li').first().waitFor();

  await canvas.focus();
  for (const key of ['n', '3', 'ArrowLeft', 'Shift+ArrowDown', '[', 'Delete', 'PageDown', 'n']) {
    await page.keyboard.press(key);
  }
  assert.equal(await page.locator('#gallery [aria-current=true]').getAttribute('aria-label'), 'train-00001.png, 1 box');
  assert.equal(await page.locator('#gallery button').first().getAttribute('aria-label'), 'train-00000.png, 1 box');

  await setRun(page, 2, RATE);
  await train(page);
  const run = JSON.parse((await save(page, '#download-record', join(OUTPUT, 'phone.json'))).toString()) as RunFile;
  const [category, x, y, width, height] = run.labels['train-00000.png']![0]!;
  const expected = [2, 0.49, 0.5, 0.25, 0.26]; // a key's step is a hundredth
  [category, x, y, width, height].forEach((value, index) => {
    assert.ok(Math.abs(value - expected[index]!) < 0.006, `${value}, expected ${expected[index]}`);
  });
  await checkForm(page);
  await page.screenshot({ path: join(OUTPUT, 'phone.png'), fullPage: true });
}

/** WebGPU, computed by the processor: the self-check, a step, and the way back. */
async function onGpu(url: string): Promise<void> {
  const browser = await launch(SOFTWARE_GPU);
  try {
    const page = await openPage(await browser.newContext(), url, []);
    await isReady(page);
    if (!(await page.evaluate(async () => Boolean(await navigator.gpu?.requestAdapter())))) {
      say('WebGPU: not tested, for this Chromium offers no adapter');
      return;
    }
    await page.locator('#device').selectOption('webgpu');
    await isReady(page);
    await page.locator('#folder').setInputFiles(join(DATA, 'small-sgd'));
    await isReady(page);
    const facts = page.locator('#facts');
    assert.match((await facts.textContent())!, /WebGPU;.*Self-checka step computed as the processor does/);
    await drop(page, TRAIN.slice(0, 2));
    await isReady(page);
    await chooseImage(page, TRAIN[0]!.name);
    await drawBoxes(page, [[1, 0.5, 0.5, 0.5, 0.25]]);
    await setRun(page, 1, RATE);
    await train(page);
    await save(page, '#download-record', join(OUTPUT, 'gpu.json'));
    const state = await save(page, '#download-state', join(OUTPUT, 'gpu.safetensors'));
    await page.locator('#device').selectOption('wasm');
    await isReady(page);
    assert.match((await facts.textContent())!, /processor, \d/);
    assert.ok((await save(page, '#download-state', join(OUTPUT, 'gpu-again.safetensors'))).equals(state));
    say('WebGPU has passed the self-check and trained');
  } finally {
    await browser.close();
  }
}

await main();
