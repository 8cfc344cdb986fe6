import assert from 'node:assert/strict';
import { test } from 'node:test';

import { ConfigError } from '../src/runtime/errors.ts';
import { emaDecay, type PlannedStep, RATES, Schedule, type ScheduleSettings } from '../src/runtime/schedule.ts';
import { assertClose, jsonOf } from './data.ts';

interface Case {
  readonly settings: Omit<ScheduleSettings, 'rates' | 'batchSize'>;
  readonly decay: number;
  readonly steps: readonly (readonly PlannedStep[])[];
}

const expected = jsonOf<{ schedules: Case[]; ema: number[] }>('python.json');
const rates = { ...RATES, lr0: 0.02, warmupBiasLr: 0.05 };

for (const { settings, decay, steps } of expected.schedules) {
  test(`${settings.epochs} epochs of ${settings.batches}: the steps are Python's`, () => {
    const schedule = new Schedule({ ...settings, rates, batchSize: 4 });
    assertClose([schedule.weightDecay], [decay], 1e-15);
    steps.forEach((planned, epoch) => {
      schedule.steps(epoch).forEach((step, index) => {
        const wanted = planned[index]!;
        assert.equal(step.update, wanted.update);
        assertClose([...step.lr, step.momentum], [...wanted.lr, wanted.momentum], 1e-14);
      });
    });
  });
}

test("the average's decay is Python's", () => {
  assertClose([1, 2, 100, 5000].map(emaDecay), expected.ema, 1e-14);
});

test('settings out of range are refused', () => {
  const settings = { epochs: 1, batches: 1, batchSize: 1, rates, optimizer: 'sgd', cosine: true, nominalBatch: 1 };
  assert.throws(() => new Schedule({ ...settings, epochs: 0 }), ConfigError);
  assert.throws(() => new Schedule({ ...settings, rates: { ...rates, lr0: NaN } }), ConfigError);
  assert.throws(() => new Schedule({ ...settings, rates: { ...rates, momentum: 1 } }), ConfigError);
});
