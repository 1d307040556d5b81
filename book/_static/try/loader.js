// @ts-check
// Brings the model: its pieces as scripts, which a page may load from files too, unpacked into bytes. And its engine: in a
// worker where the browser allows one, else in the page, in slices.
(function () {
  "use strict";
  const kvTry = (/** @type {any} */ (globalThis).kvTry ??= {});

  const BASE = /** @type {HTMLScriptElement} */ (document.currentScript).src.replace(/[^/]*$/, "");
  const MODEL = `${BASE}small-gpt2/`;

  /** @type {Record<number, string>} */
  const taken = {};
  kvTry.take = (/** @type {number} */ k, /** @type {string} */ text) => {
    taken[k] = text;
  };

  /** Runs a script of the book. @param {string} source @returns {Promise<void>} */
  function script(source) {
    return new Promise((resolve, reject) => {
      const tag = document.createElement("script");
      tag.onload = () => {
        tag.remove();
        resolve();
      };
      tag.onerror = () => reject(new Error(`${source.replace(/.*\//, "")} could not be loaded`));
      tag.src = source;
      document.head.append(tag);
    });
  }

  /** The bytes that a piece's text stands for. @param {string} text @returns {Promise<Uint8Array>} */
  async function unpacked(text) {
    const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  /** Shape, tokenizer and bytes of the model; `progress` is told the share that is here. @param {(share: number) => void} progress */
  async function fetchModel(progress) {
    progress(0);
    if (!kvTry.about) await script(`${MODEL}about.js`);
    const { about } = kvTry;
    const bytes = new Uint8Array(about.bytes);
    for (let k = 0; k < about.pieces; k++) {
      await script(`${MODEL}piece-${k}.js`);
      bytes.set(await unpacked(taken[k]), k * about.piece);
      delete taken[k];
      progress((k + 1) / about.pieces);
    }
    return { about, bytes };
  }

  /** An engine that answers by `hear`; returns how to ask it. @param {(told: any) => void} hear @returns {(asked: any) => void} */
  function startEngine(hear) {
    if (location.protocol.startsWith("http")) {
      try {
        const worker = new Worker(`${BASE}worker.js`);
        worker.onmessage = (event) => hear(event.data);
        worker.onerror = (event) => hear({ failed: event.message || "the worker did not start" });
        return (asked) => worker.postMessage(asked, asked.bytes ? [asked.bytes.buffer] : []);
      } catch {} // no worker: as from a file
    }
    const engine = new kvTry.Engine(hear);
    return (asked) => void engine.take(asked);
  }

  Object.assign(kvTry, { fetchModel, startEngine });
})();
