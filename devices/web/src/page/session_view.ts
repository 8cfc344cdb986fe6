/** What the page says about the open detector. */

import type { Opened, StateSummary } from '../worker/protocol.ts';
import { byId, make } from './dom.ts';

export function showDetector(opened: Opened, state: StateSummary): void {
  const { manifest, verified, engine, differences, seconds } = opened;
  const facts: readonly (readonly [string, string])[] = [
    ['Detector', `${manifest.model || 'unnamed'}, ${manifest.optimizer ?? ''}`],
    ['Classes', `${manifest.names.length}: ${manifest.names.slice(0, 12).join(', ')}${manifest.names.length > 12 ? ', …' : ''}`],
    ['Images', `${manifest.imageSize[1]} × ${manifest.imageSize[0]} px, ${manifest.batchSize} per step, at most ${manifest.maxTargets} boxes`],
    ['Files', `${verified.length} verified (SHA-256)`],
    ['Engine', `${engine}; opened in ${seconds.toFixed(1)} s`],
    ...(differences.length ? [['Self-check', describe(opened)] as const] : []),
    ['Weights', state.updates ? `after ${state.updates} updates` : 'as exported'],
  ];
  byId('facts').replaceChildren(
    ...facts.flatMap(([term, text]) => [make('dt', { textContent: term }), make('dd', { textContent: text })]),
  );
  byId('facts').hidden = false;
  byId('state-files').hidden = false;
}

/** Say what the page can use of this machine. */
export function describeMachine(): string {
  const threads = crossOriginIsolated
    ? `threads: up to ${Math.min(navigator.hardwareConcurrency || 1, 8)}`
    : 'one thread: the server sends no COOP and COEP headers';
  return `${threads}; WebGPU: ${'gpu' in navigator ? 'offered by this browser' : 'not offered by this browser'}`;
}

function describe({ differences }: Opened): string {
  const loss = differences.find(({ name }) => name === 'loss');
  const update = differences.find(({ name }) => name === 'update');
  return (
    `a step computed as the processor does (loss ${loss?.value.toExponential(1)}, update ` +
    `${update?.value.toExponential(1)} off, relative)`
  );
}
