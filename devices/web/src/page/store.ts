/** What the page keeps in the browser's own database, so that a reload continues. */

const NAME = 'exportloss';
const VERSION = 1;

export type Shelf = 'files' | 'images' | 'values';
const SHELVES: readonly Shelf[] = ['files', 'images', 'values'];

/** A database of keys and values. */
export class Store {
  readonly #database: IDBDatabase;

  private constructor(database: IDBDatabase) {
    this.#database = database;
  }

  static async open(): Promise<Store> {
    const request = indexedDB.open(NAME, VERSION);
    request.onupgradeneeded = () => {
      for (const shelf of SHELVES) request.result.createObjectStore(shelf);
    };
    return new Store(await done(request));
  }

  async get<T>(shelf: Shelf, key: string): Promise<T | undefined> {
    return done(this.#shelf(shelf, 'readonly').get(key)) as Promise<T | undefined>;
  }

  /** Return all entries, by key. */
  async all<T>(shelf: Shelf): Promise<Map<string, T>> {
    const held = this.#shelf(shelf, 'readonly');
    const [keys, values] = await Promise.all([done(held.getAllKeys()), done(held.getAll())]);
    return new Map(keys.map((key, index) => [String(key), values[index] as T]));
  }

  async put(shelf: Shelf, key: string, value: unknown): Promise<void> {
    await done(this.#shelf(shelf, 'readwrite').put(value, key));
  }

  /** Replace all entries of a shelf at once. */
  async replace(shelf: Shelf, entries: ReadonlyMap<string, unknown>): Promise<void> {
    const transaction = this.#database.transaction(shelf, 'readwrite');
    const held = transaction.objectStore(shelf);
    held.clear();
    for (const [key, value] of entries) held.put(value, key);
    await new Promise<void>((resolve, reject) => {
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(problem(transaction.error));
    });
  }

  async remove(shelf: Shelf, key: string): Promise<void> {
    await done(this.#shelf(shelf, 'readwrite').delete(key));
  }

  async clear(): Promise<void> {
    for (const shelf of SHELVES) await this.replace(shelf, new Map());
  }

  #shelf(shelf: Shelf, mode: IDBTransactionMode): IDBObjectStore {
    return this.#database.transaction(shelf, mode).objectStore(shelf);
  }
}

function done<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(problem(request.error));
  });
}

function problem(error: DOMException | null): Error {
  return new Error(
    `this browser cannot keep the data (${error?.message ?? 'no reason given'}); free some space. ` +
      'Until then a reload loses it',
  );
}
