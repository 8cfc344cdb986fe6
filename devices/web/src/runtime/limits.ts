/** Limits of what files may hold, each enforced before memory for it is allocated. */

export const MAX_MANIFEST_BYTES = 8 * 2 ** 20;
export const MAX_ARTIFACT_FILES = 64;
export const MAX_MODEL_BYTES = 2 ** 31 - 1; // of a protocol buffer, so of an ONNX file
export const MAX_STATE_BYTES = 2 ** 31 - 1; // browsers allocate no larger buffer everywhere
export const MAX_HEADER_BYTES = 16 * 2 ** 20; // of a safetensors file
export const MAX_TENSORS = 100_000;
export const MAX_CLASSES = 100_000;
export const MAX_IMAGE_SIDE = 2 ** 16; // pixels
export const MAX_ROWS = 2 ** 20; // images in a batch, target rows in a batch
export const MAX_IMAGE_PIXELS = 2 ** 26; // of a decoded image: 256 MiB in RGBA
export const MAX_RATE = 1000; // larger learning rates only lead to infinite weights
export const MAX_UPDATES = 2 ** 31;
