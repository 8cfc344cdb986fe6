/** Options of the loss, under the names that YOLOv5's hyperparameter files use. */

import { excerpt } from './errors.ts';

export const CRITERIA = ['bce', 'focal', 'qfocal', 'blur'] as const;

const DEFAULTS = {
  box: 0.05,
  cls: 0.5,
  cls_pw: 1,
  obj: 1,
  obj_pw: 1,
  anchor_t: 4,
  fl_gamma: 0,
  label_smoothing: 0,
  gr: 1,
  sort_obj_iou: false,
  autobalance: false,
  criterion: 'bce',
  focal_alpha: 0.25,
  blur_alpha: 0.05,
};

export type LossConfig = Readonly<typeof DEFAULTS>;

export const LOSS_KEYS: readonly string[] = Object.keys(DEFAULTS);

const RANGES: readonly (readonly [readonly (keyof LossConfig)[], (value: number) => boolean])[] = [
  [['box', 'cls', 'obj', 'fl_gamma'], (value) => value >= 0],
  [['cls_pw', 'obj_pw', 'blur_alpha'], (value) => value > 0],
  [['anchor_t'], (value) => value > 1],
  [['label_smoothing'], (value) => value >= 0 && value < 1],
  [['gr', 'focal_alpha'], (value) => value >= 0 && value <= 1],
];

/**
 * Fill in defaults and check the values.
 *
 * @throws RangeError if a value is out of range, or two contradict each other.
 */
export function lossConfig(values: Readonly<Record<string, unknown>>): LossConfig {
  for (const [key, value] of Object.entries(values)) {
    const expected = typeof DEFAULTS[key as keyof LossConfig];
    if (!LOSS_KEYS.includes(key) || typeof value !== expected) {
      throw new RangeError(`loss.${excerpt(key)} is ${excerpt(JSON.stringify(value))}, expected a ${expected}`);
    }
  }
  const config: LossConfig = { ...DEFAULTS, ...values };
  for (const [names, isValid] of RANGES) {
    for (const name of names) {
      const value = config[name] as number;
      if (!Number.isFinite(value) || !isValid(value)) throw new RangeError(`loss.${name} is ${value}`);
    }
  }
  const { criterion, fl_gamma: gamma } = config;
  const isKnown = (CRITERIA as readonly string[]).includes(criterion);
  const isWithoutGamma = ['focal', 'qfocal'].includes(criterion) && gamma === 0;
  if (!isKnown || isWithoutGamma || (criterion === 'blur' && gamma > 0)) {
    throw new RangeError(`loss.criterion is '${excerpt(criterion)}' with fl_gamma ${gamma}`);
  }
  return config;
}
