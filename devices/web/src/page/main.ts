/** The page. */

import { App } from './app.ts';
import { Store } from './store.ts';

const error = document.getElementById('error')!;

Store.open()
  .then((store) => new App(store).start())
  .catch((problem: Error) => {
    error.textContent = `The page cannot start: ${problem.message}`;
    error.hidden = false;
  });
