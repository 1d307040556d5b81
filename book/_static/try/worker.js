// @ts-check
// The engine in a worker: messages in, messages out.
(function () {
  "use strict";
  const scope = /** @type {any} */ (globalThis);
  scope.importScripts("laws.js", "cells.js", "model.js", "engine.js");
  const engine = new scope.kvTry.Engine((/** @type {any} */ told) => scope.postMessage(told));
  scope.onmessage = (/** @type {MessageEvent} */ event) => engine.take(event.data);
})();
