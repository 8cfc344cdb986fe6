/** Calls between the page and its worker: a request with a number, a reply with the same number. */

export interface Handlers {
  readonly [name: string]: (argument: never) => unknown;
}

/** Events that a worker sends unasked. */
export interface Events {
  readonly [name: string]: unknown;
}

/** The part of a worker's global scope that is used. */
export interface WorkerScope {
  postMessage(message: unknown): void;
  addEventListener(type: 'message', receive: (event: MessageEvent) => void): void;
}

interface Request {
  readonly number: number;
  readonly name: string;
  readonly argument: unknown;
}

type Message =
  | { readonly number: number; readonly value: unknown }
  | { readonly number: number; readonly error: { readonly name: string; readonly message: string } }
  | { readonly event: string; readonly value: unknown };

/** Answer requests, one after the other unless a handler is named in `atOnce`. */
export function serve(scope: WorkerScope, handlers: Handlers, atOnce: readonly string[]): void {
  let queue = Promise.resolve();
  const answer = async ({ number, name, argument }: Request): Promise<void> => {
    try {
      const value = await handlers[name]!(argument as never);
      scope.postMessage({ number, value } satisfies Message);
    } catch (error) {
      const { name: kind, message } = error instanceof Error ? error : new Error(String(error));
      scope.postMessage({ number, error: { name: kind, message } } satisfies Message);
    }
  };
  scope.addEventListener('message', ({ data }: MessageEvent<Request>) => {
    if (atOnce.includes(data.name)) void answer(data);
    else queue = queue.then(() => answer(data));
  });
}

/** Send an event to the page. */
export function tell<All extends Events, Name extends keyof All & string>(
  scope: WorkerScope,
  event: Name,
  value: All[Name],
): void {
  scope.postMessage({ event, value } satisfies Message);
}

type Call<All extends Handlers> = <Name extends keyof All & string>(
  name: Name,
  argument: Parameters<All[Name]>[0],
) => Promise<Awaited<ReturnType<All[Name]>>>;

export interface Client<All extends Handlers, Told extends Events> {
  readonly call: Call<All>;
  /** Set the receiver of an event. */
  readonly on: <Name extends keyof Told & string>(event: Name, receive: (value: Told[Name]) => void) => void;
}

/** An error from the worker, of the class that `name` says. */
export class RemoteError extends Error {
  constructor(name: string, message: string) {
    super(message);
    this.name = name;
  }
}

/** Call a worker's handlers. */
export function connect<All extends Handlers, Told extends Events>(worker: Worker): Client<All, Told> {
  const waiting = new Map<number, { resolve: (value: never) => void; reject: (error: Error) => void }>();
  const receivers = new Map<string, (value: never) => void>();
  let next = 0;
  worker.addEventListener('message', ({ data }: MessageEvent<Message>) => {
    if ('event' in data) {
      receivers.get(data.event)?.(data.value as never);
      return;
    }
    const call = waiting.get(data.number);
    waiting.delete(data.number);
    if ('error' in data) call?.reject(new RemoteError(data.error.name, data.error.message));
    else call?.resolve(data.value as never);
  });
  worker.addEventListener('error', (event) => {
    const error = new RemoteError('Error', `the worker failed: ${event.message || 'its script cannot be loaded'}`);
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
  });
  return {
    call: (name, argument) =>
      new Promise((resolve, reject) => {
        const number = next++;
        waiting.set(number, { resolve: resolve as (value: never) => void, reject });
        worker.postMessage({ number, name, argument } satisfies Request);
      }),
    on: (event, receive) => {
      receivers.set(event, receive as (value: never) => void);
    },
  };
}
