// @ts-check
// Reads a text with a full cache and with a bounded one, in slices, and tells what it sees. It knows no page: it runs in
// a worker, or between two frames of the page where a browser allows no worker (files).
(function () {
  "use strict";
  const kvTry = (/** @type {any} */ (globalThis).kvTry ??= {});

  const SLICE = 4; // tokens that go through a layer together: a few milliseconds
  const GUESSES = 8; // tokens of a list

  /** Lets everything else have its turn: input, frames, messages. */
  function pause() {
    return new Promise((resolve) => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => {
        port1.close();
        resolve(undefined);
      };
      port2.postMessage(0);
    });
  }

  /** Draws for random retention, one for each token: drawn(t, room) from 0 to room. @param {number} seed */
  function draws(seed) {
    const next = kvTry.numbers(seed);
    /** @type {number[]} */
    const kept = [];
    return (/** @type {number} */ t, /** @type {number} */ room) => {
      while (kept.length <= t) kept.push(next());
      return Math.floor(kept[t] * (room + 1));
    };
  }

  class Engine {
    /** @param {(told: any) => void} tell */
    constructor(tell) {
      this.tell = tell;
      this.job = 0; // the newest one; older ones stop at their next pause
      /** @type {any} */
      this.model = null;
      /** @type {{ ids: number[], laws: Float32Array[], cache: any[] } | null} */
      this.full = null;
      /** @type {{ cache: any[], law: Float32Array, read: number } | null} */
      this.bounded = null;
    }

    /** @param {any} asked by the page: `what` it wants, the number of the `job`, and what that needs */
    async take(asked) {
      this.job = asked.job;
      try {
        for (const told of this.work(asked)) {
          if (told) this.tell({ job: asked.job, ...told });
          await pause();
          if (this.job !== asked.job) return;
        }
        this.tell({ job: asked.job, done: asked.what });
      } catch (error) {
        this.tell({ job: asked.job, failed: String(/** @type {any} */ (error).message || error) });
      }
    }

    /** The work that is asked for, slice by slice. @param {any} asked @returns {Generator<any>} */
    work(asked) {
      if (asked.what === "load") return this.load(asked);
      return asked.what === "read" ? this.read(asked) : this.write(asked);
    }

    /** Makes the model out of its bytes. @param {{ about: any, bytes: Uint8Array }} asked */
    *load({ about, bytes }) {
      this.model = new kvTry.Model(about, yield* kvTry.unpack(about, bytes));
    }

    /**
     * Reads `ids` with a policy and a budget; tells rows, each of which is what is known after a token.
     * @param {{ ids: number[], policy: any, budget: number, seed: number, drawn?: number[] }} asked
     */
    *read({ ids, policy, budget, seed, drawn }) {
      const { model } = this;
      if (!this.full || this.full.ids.join() !== ids.join()) {
        this.full = { ids, laws: [], cache: kvTry.emptyCache(model, model.about.positions) };
      }
      const { full } = this;
      const draw = drawn ? (/** @type {number} */ t) => drawn[t] : draws(seed);
      const cache = kvTry.emptyCache(model, budget, policy, draw);
      this.bounded = null;
      for (let from = 0; from < ids.length; from += SLICE) {
        const part = ids.slice(from, from + SLICE);
        if (full.laws.length < from + part.length) {
          full.laws.length = from; // a job that was stopped may have read a part of this slice
          full.laws.push(...this.laws(yield* model.steps(part, from, full.cache)));
          yield null;
        }
        const seen = part.map(() => /** @type {any[]} */ ([]));
        const hidden = yield* model.steps(part, from, cache, (/** @type {number} */ _, /** @type {number} */ t, /** @type {any} */ cells) => {
          seen[t - from].push(this.look(cells));
        });
        const laws = this.laws(hidden);
        yield null;
        const rows = laws.map((law, i) => this.row(from + i, ids[from + i + 1], full.laws[from + i], law, seen[i]));
        if (from + part.length === ids.length) this.bounded = { cache, law: laws[laws.length - 1], read: ids.length };
        yield { rows };
      }
    }

    /** The laws after some tokens, one by one. @param {Float32Array} hidden @returns {Float32Array[]} */
    laws(hidden) {
      const { vocabulary } = this.model;
      const all = this.model.laws(hidden);
      return Array.from({ length: all.length / vocabulary }, (_, i) => all.slice(i * vocabulary, (i + 1) * vocabulary));
    }

    /** Who is held in a layer's cells, and how much each is looked at; a head after the other. @param {any} cells */
    look({ heads, room, count, positions, weights }) {
      const held = new Uint16Array(heads * count);
      const attention = new Float32Array(heads * count);
      for (let head = 0; head < heads; head++) {
        held.set(positions.subarray(head * room, head * room + count), head * count);
        attention.set(weights.subarray(head * room, head * room + count), head * count);
      }
      return { count, held, attention };
    }

    /**
     * What is known after the token at t; `next` is the one that follows, or nothing.
     * @param {number} t @param {number | undefined} next @param {Float32Array} p @param {Float32Array} q @param {any[]} layers
     */
    row(t, next, p, q, layers) {
      const share = (/** @type {Float32Array} */ law) => (next === undefined ? NaN : Math.exp(law[next]));
      return {
        t,
        layers,
        ...kvTry.distances(p, q),
        full: { own: share(p), guesses: kvTry.likeliest(p, GUESSES) },
        bounded: { own: share(q), guesses: kvTry.likeliest(q, GUESSES) },
      };
    }

    /**
     * Goes on after the text, with both caches and the same draws; tells each token of each side.
     * @param {{ count: number, temperature: number, seed: number }} asked
     */
    *write({ count, temperature, seed }) {
      const { model, full, bounded } = this;
      if (!full || !bounded) throw new Error("the text has not been read yet");
      const next = kvTry.numbers(seed);
      const sides = {
        full: { law: full.laws[full.ids.length - 1], cache: full.cache.map((cells) => cells.copy()) },
        bounded: { law: bounded.law, cache: bounded.cache.map((cells) => cells.copy()) },
      };
      const last = Math.min(count, model.about.positions - bounded.read);
      for (let k = 0; k < last; k++) {
        const at = next();
        for (const [name, side] of Object.entries(sides)) {
          const id = kvTry.draw(side.law, temperature, at);
          [side.law] = this.laws(yield* model.steps([id], bounded.read + k, side.cache));
          yield { wrote: name, id };
        }
      }
    }
  }

  kvTry.Engine = Engine;
})();
