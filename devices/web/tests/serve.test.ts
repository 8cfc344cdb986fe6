/** The development server, on requests that no browser sends. */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { serve } from '../serve.mjs';

/** The status of a path that is sent as it is; `fetch` would tidy it. */
function statusOf(port: number, path: string): Promise<number> {
  return new Promise((resolve, reject) => {
    request({ host: '127.0.0.1', port, path }, (response) => {
      response.resume();
      resolve(response.statusCode!);
    })
      .on('error', reject)
      .end();
  });
}

test('no path ends the server, or leaves its folder', async () => {
  const above = mkdtempSync(join(tmpdir(), 'page '));
  writeFileSync(join(above, 'secret'), '');
  mkdirSync(join(above, 'site'));
  writeFileSync(join(above, 'site/index.html'), '');
  const server = await serve(join(above, 'site'));
  const { port } = server.address() as AddressInfo;
  const expected = { '/': 200, '/%': 400, '/%ff': 400, '//': 400, '/%00': 404, '/../secret': 404, '/%2e%2e%2fsecret': 404, '/none': 404 };
  for (const [path, status] of Object.entries(expected)) assert.equal(await statusOf(port, path), status, path);
  server.close();
  rmSync(above, { recursive: true });
});

test('a folder without the page is named', () => {
  const program = fileURLToPath(new URL('../serve.mjs', import.meta.url));
  const { status, stderr } = spawnSync(process.execPath, [program, tmpdir()], { encoding: 'utf8' });
  assert.equal(status, 1);
  assert.match(stderr, /index\.html; build the page first/);
});
