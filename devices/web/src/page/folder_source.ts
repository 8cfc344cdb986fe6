/** An artifacts folder from files or from the page's own server. */

import { ArtifactError, ConfigError } from '../runtime/errors.ts';
import { MAX_MANIFEST_BYTES } from '../runtime/limits.ts';
import { MANIFEST, readManifest } from '../runtime/manifest.ts';
import type { FolderFiles } from '../worker/protocol.ts';

/** Read the listed files of a folder into memory, so that they outlive what they came from. */
export async function readFolder(files: ReadonlyMap<string, Blob>): Promise<FolderFiles> {
  const manifest = files.get(MANIFEST);
  if (!manifest) throw new ArtifactError(`this is not an artifacts folder: it has no ${MANIFEST}`);
  const wanted = await listedNames(manifest);
  const held = [...files].filter(([name]) => wanted.has(name));
  return new Map(
    await Promise.all(held.map(async ([name, file]) => [name, new Blob([await file.arrayBuffer()])] as const)),
  );
}

/**
 * Fetch a folder from the server that the page came from.
 *
 * @throws ConfigError for another server: the page connects to none.
 */
export async function fetchFolder(path: string): Promise<FolderFiles> {
  const base = new URL(path.endsWith('/') ? path : `${path}/`, document.baseURI);
  if (base.origin !== location.origin) {
    throw new ConfigError(
      `${base.origin} is another server; this page loads from its own, ${location.origin}, only: ` +
        'download the folder and choose it here',
    );
  }
  const manifest = await fetchFile(new URL(MANIFEST, base), MAX_MANIFEST_BYTES);
  const files = new Map([[MANIFEST, manifest]]);
  const { files: listed } = await readManifest(new Uint8Array(await manifest.arrayBuffer()));
  for (const [name, { size }] of listed) {
    files.set(name, await fetchFile(new URL(encodeURIComponent(name), base), size));
  }
  return files;
}

async function listedNames(manifest: Blob): Promise<Set<string>> {
  const content = new Uint8Array(await manifest.slice(0, MAX_MANIFEST_BYTES + 1).arrayBuffer());
  return new Set([MANIFEST, ...(await readManifest(content)).files.keys()]);
}

async function fetchFile(url: URL, mostBytes: number): Promise<Blob> {
  const response = await fetch(url, { credentials: 'omit' }).catch((error: Error) => {
    throw new ArtifactError(`${url.pathname} cannot be loaded: ${error.message}`);
  });
  if (!response.ok) {
    throw new ArtifactError(
      `${url.pathname} cannot be loaded: the server says ${response.status}; correct the path`,
    );
  }
  if (Number(response.headers.get('Content-Length') ?? 0) > mostBytes) {
    throw new ArtifactError(`${url.pathname} has more than the ${mostBytes} bytes that are expected`);
  }
  return response.blob();
}
