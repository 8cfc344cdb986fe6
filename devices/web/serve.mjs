// Serves a built page to this machine: node serve.mjs [FOLDER] [PORT]
//
// For development. The headers are those that any host of the page should send: see docs/web.md.

import { createReadStream, existsSync } from 'node:fs';
import { stat } from 'node:fs/promises';
import { createServer } from 'node:http';
import { dirname, extname, join, normalize, resolve, sep } from 'node:path';
import { pipeline } from 'node:stream';
import { fileURLToPath } from 'node:url';

const TYPES = {
  '.css': 'text/css; charset=utf-8',
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.json': 'application/json',
  '.mjs': 'text/javascript; charset=utf-8',
  '.svg': 'image/svg+xml',
  '.wasm': 'application/wasm',
};

export const HEADERS = {
  // Together they let threads share memory.
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
  // The page says so itself, too; workers have only the header.
  'Content-Security-Policy':
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; " +
    "connect-src 'self'; img-src 'self' blob:; media-src 'self' blob:; style-src 'self'; " +
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'no-referrer',
  'Cache-Control': 'no-cache',
};

/**
 * Start a server on 127.0.0.1; port 0 takes a free one.
 *
 * @param {string} folder
 * @param {number} port
 * @param {Record<string, string>} headers
 * @returns {Promise<import('node:http').Server>}
 */
export function serve(folder, port = 0, headers = HEADERS) {
  const root = resolve(folder);
  const server = createServer(async (request, response) => {
    const path = pathOf(request.url);
    if (path === null) {
      response.writeHead(400, headers).end('bad request\n');
      return;
    }
    const file = join(root, normalize(path.endsWith('/') ? `${path}index.html` : path));
    const found = file.startsWith(root + sep) ? await stat(file).catch(() => null) : null;
    if (!found?.isFile() || !['GET', 'HEAD'].includes(request.method)) {
      response.writeHead(found ? 405 : 404, headers).end('not found\n');
      return;
    }
    const type = TYPES[extname(file)] ?? 'application/octet-stream';
    response.writeHead(200, { ...headers, 'Content-Type': type, 'Content-Length': found.size });
    if (request.method === 'HEAD') response.end();
    else pipeline(createReadStream(file), response, () => {}); // a broken connection is the client's
  });
  return new Promise((started, failed) => {
    server.once('error', failed);
    server.listen(port, '127.0.0.1', () => started(server));
  });
}

/** Return the path that a request names; null if it is no path. */
function pathOf(url) {
  try {
    return decodeURIComponent(new URL(url, 'http://localhost').pathname);
  } catch {
    return null;
  }
}

async function main(folder, port) {
  if (!existsSync(join(folder, 'index.html'))) {
    throw new Error(`${folder} has no index.html; build the page first: make web, or npm run build`);
  }
  const server = await serve(folder, port).catch((error) => {
    const remedy = error.code === 'EADDRINUSE' ? '; pass another port: serve.mjs FOLDER PORT' : '';
    throw new Error(`${error.message}${remedy}`);
  });
  console.log(`http://127.0.0.1:${server.address().port}/`);
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const site = join(dirname(fileURLToPath(import.meta.url)), '../../build/web/site');
  await main(process.argv[2] ?? site, Number(process.argv[3] ?? 8000)).catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
  });
}
