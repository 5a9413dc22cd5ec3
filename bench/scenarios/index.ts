import { capturedScenario } from './captured.js';
import type { Scenario } from './context.js';
import { fanoutScenarios } from './fanout.js';
import { idleScenario } from './idle.js';
import { reconcileScenario } from './reconcile.js';
import { reconnectScenario } from './reconnect.js';
import { scalingScenario } from './scaling.js';
import { writesScenario } from './writes.js';

export const SCENARIOS: readonly Scenario[] = [
  ...fanoutScenarios,
  idleScenario,
  reconnectScenario,
  writesScenario,
  scalingScenario,
  reconcileScenario,
  capturedScenario,
];
