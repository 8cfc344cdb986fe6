/** Starts the worker. */

import type { Told, Work } from '../worker/protocol.ts';
import { type Client, connect } from '../worker/rpc.ts';

export interface Helper extends Client<Work, Told> {
  readonly end: () => void;
}

/**
 * Start a worker that obeys the page's content security policy.
 *
 * A worker from an address has the policy that its server sends, perhaps none; one from a blob has
 * the page's own. So even on a host without headers nothing can leave the page.
 */
export function startWorker(): Helper {
  const script = new URL('worker.js', document.baseURI).href;
  const blob = new Blob([`import ${JSON.stringify(script)};`], { type: 'text/javascript' });
  const url = URL.createObjectURL(blob);
  const worker = new Worker(url, { type: 'module' });
  return {
    ...connect<Work, Told>(worker),
    end: () => {
      worker.terminate();
      URL.revokeObjectURL(url);
    },
  };
}
