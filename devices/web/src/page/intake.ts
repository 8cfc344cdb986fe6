/** Files that are chosen or dropped, sorted by what they are. */

import { MANIFEST } from '../runtime/manifest.ts';

/** A file, and its path within the folder that was dropped. */
export interface Incoming {
  readonly path: string;
  readonly file: File;
}

export interface Sorted {
  /** Files of an artifacts folder by name; null if no manifest came. */
  readonly folder: ReadonlyMap<string, File> | null;
  readonly images: readonly Incoming[];
  readonly labels: readonly Incoming[];
  readonly states: readonly File[];
  readonly others: readonly string[]; // paths of files that are nothing of these
}

const IMAGE = /\.(jpe?g|png|webp|bmp|gif|avif)$/i;

/** Sort files: those beside a manifest are its folder's, the others go by their suffix. */
export function sortFiles(incoming: readonly Incoming[]): Sorted {
  const manifest = incoming.find(({ path }) => nameOf(path) === MANIFEST);
  const folder = manifest && folderOf(manifest.path);
  const inside = incoming.filter(({ path }) => folderOf(path) === folder);
  const rest = incoming.filter(({ path }) => folderOf(path) !== folder || folder === undefined);
  const of = (pattern: RegExp): Incoming[] => rest.filter(({ path }) => pattern.test(path));
  const known = /\.(jpe?g|png|webp|bmp|gif|avif|txt|safetensors)$/i;
  return {
    folder: manifest ? new Map(inside.map(({ path, file }) => [nameOf(path), file])) : null,
    images: of(IMAGE),
    labels: of(/\.txt$/i),
    states: of(/\.safetensors$/i).map(({ file }) => file),
    others: rest.filter(({ path }) => !known.test(path)).map(({ path }) => path),
  };
}

/** Return the files of an `<input type="file">`. */
export function fromInput(input: HTMLInputElement): Incoming[] {
  const files = [...(input.files ?? [])];
  input.value = ''; // so that choosing the same file again is a change
  return files.map((file) => ({ path: file.webkitRelativePath || file.name, file }));
}

/** Return the dropped files, those in folders too. */
export async function fromDrop(transfer: DataTransfer): Promise<Incoming[]> {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.() ?? null);
  if (!entries.some((entry) => entry?.isDirectory)) {
    return [...transfer.files].map((file) => ({ path: file.name, file }));
  }
  const found: Incoming[] = [];
  const walk = async (entry: FileSystemEntry): Promise<void> => {
    if (entry.isFile) {
      const file = await new Promise<File>((resolve, reject) =>
        (entry as FileSystemFileEntry).file(resolve, reject),
      );
      found.push({ path: entry.fullPath.replace(/^\//, ''), file });
      return;
    }
    const reader = (entry as FileSystemDirectoryEntry).createReader();
    for (;;) {
      const some = await new Promise<FileSystemEntry[]>((resolve, reject) =>
        reader.readEntries(resolve, reject),
      );
      if (!some.length) return;
      for (const each of some) await walk(each);
    }
  };
  for (const entry of entries) if (entry) await walk(entry);
  return found;
}

/** Return whether an image's path says that it is of a validation split. */
export function isOfValidation(path: string): boolean {
  return /(^|\/)(val|valid|validation)\//i.test(path);
}

function nameOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

function folderOf(path: string): string {
  return path.slice(0, path.lastIndexOf('/') + 1);
}
