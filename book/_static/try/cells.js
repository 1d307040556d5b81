// @ts-check
// The cells of a layer's KV cache, and the policies that say whose cell the next token gets. They are those of
// `kvlib.cache.policies`, run online, a token at a time: a full cache loses one entry in each head, then a token is read.
(function () {
  "use strict";
  const kvTry = (/** @type {any} */ (globalThis).kvTry ??= {});

  const NEVER = -1e30; // a score below all others

  /**
   * The cell of the least value among those that may go.
   * @param {Cells} cells @param {number} head @param {(cell: number, position: number) => number} value
   */
  function least(cells, head, value) {
    let best = Infinity;
    let found = 0;
    for (let cell = 0; cell < cells.count; cell++) {
      const now = value(cell, cells.positions[head * cells.room + cell]);
      if (now < best) [best, found] = [now, cell];
    }
    return found;
  }

  /** Half of a budget as Python rounds it: a tie goes to the even number. @param {number} budget */
  const half = (budget) => Math.round(budget / 2) - ((budget / 2) % 2 === 0.5 ? 1 : 0);

  /**
   * A policy: `victim` names the cell that a head gives up before the token at t is read; `kind` says why an entry is
   * held: a "sink", "recent" (it stays by its age), or "kept" (by its score, or by luck).
   * @typedef {{ least: number, victim: (cells: Cells, head: number, t: number) => number,
   *   kind: (position: number, t: number, budget: number) => "sink" | "recent" | "kept" }} Policy
   */

  /** The newest cells and the first `sinks`. @param {number} sinks @returns {() => Policy} */
  const recent = (sinks) => () => ({
    least: sinks + 1,
    victim: (cells, head) => least(cells, head, (_, position) => (position < sinks ? Infinity : position)),
    kind: (position) => (position < sinks ? "sink" : "recent"),
  });

  /**
   * Random older entries: `drawn(t, room)` is a number from 0 to room. The entry of that place goes, and the newest takes
   * its place; at `room` the newest itself goes. All heads and layers share the draws.
   * @param {(t: number, room: number) => number} drawn @returns {Policy}
   */
  const random = (drawn) => ({
    least: 1,
    victim: (cells, head, t) => {
      const room = cells.room - 1;
      const places = (cells.places[head] ??= Array.from({ length: room + 1 }, (_, cell) => cell));
      const place = drawn(t, room);
      const gone = places[place];
      places[place] = places[room];
      places[room] = gone; // where the token at t will lie
      return gone;
    },
    kind: (position, t) => (position === t ? "recent" : "kept"),
  });

  /** The newest `spared` cells stay, of the others the best scored. @param {(budget: number) => number} spared @returns {Policy} */
  const scored = (spared) => ({
    least: 2,
    victim: (cells, head, t) => {
      const old = t - Math.min(spared(cells.room), cells.room - 1);
      return least(cells, head, (cell, position) => (position < old ? cells.scores[head * cells.room + cell] : Infinity));
    },
    kind: (position, t, budget) => (position > t - Math.max(1, spared(budget)) ? "recent" : "kept"),
  });

  /** Policies by their keys in kvlib; each call makes a new one, with the draws it needs. */
  const POLICIES = {
    sinks: recent(4),
    sliding: recent(0),
    random,
    h2o: () => scored(half),
    tova: () => scored(() => 1),
  };

  /** How a layer's entries are scored after a query: nothing, attention summed up, or the last one's mean over heads. */
  const SCORES = { h2o: "sum", tova: "last" };

  class Cells {
    /**
     * @param {number} heads @param {number} size of a head @param {number} room cells a head: the budget
     * @param {Policy | null} policy null where nothing ever goes @param {string} [score] of SCORES
     */
    constructor(heads, size, room, policy, score = "") {
      if (policy && room < policy.least) throw new Error(`budget: expected at least ${policy.least}, got ${room}`);
      this.heads = heads;
      this.size = size;
      this.room = room;
      this.policy = policy;
      this.score = score;
      this.count = 0; // cells in use, the same for all heads
      this.positions = new Int32Array(heads * room);
      this.keys = new Float32Array(heads * room * size);
      this.values = new Float32Array(heads * room * size);
      this.scores = new Float32Array(heads * room);
      this.weights = new Float32Array(heads * room); // the last query's attention, cell by cell
      /** @type {number[][]} */
      this.places = []; // of random retention: which cell lies at which place
    }

    /** A twin that goes its own way. @returns {Cells} */
    copy() {
      const twin = Object.assign(Object.create(Cells.prototype), this);
      for (const name of ["positions", "keys", "values", "scores", "weights"]) twin[name] = twin[name].slice();
      twin.places = this.places.map((one) => [...one]);
      return twin;
    }

    /**
     * Makes room, stores the token at t, and writes what its query sees into `out`.
     * @param {number} t @param {Float32Array} three its query, key and value @param {Float32Array} out
     */
    attend(t, three, out) {
      const { heads, size, room, policy, weights } = this;
      if (!policy) this.count = t; // nothing goes: cells are positions, and what was read anew is written anew
      const full = this.count === room;
      if (full && !policy) throw new Error(`expected at most ${room} tokens, got more`);
      const width = heads * size;
      const own = new Int32Array(heads);
      for (let head = 0; head < heads; head++) own[head] = full && policy ? policy.victim(this, head, t) : this.count;
      if (!full) this.count += 1;
      for (let head = 0; head < heads; head++) {
        const cell = head * room + own[head];
        this.positions[cell] = t;
        this.scores[cell] = 0;
        this.keys.set(three.subarray(width + head * size, width + (head + 1) * size), cell * size);
        this.values.set(three.subarray(2 * width + head * size, 2 * width + (head + 1) * size), cell * size);
        this.look(head, three, out);
      }
      if (this.score === "sum") for (let i = 0; i < weights.length; i++) this.scores[i] += weights[i];
      if (this.score === "last") this.meanOfHeads();
    }

    /** One head's softmax attention over its cells. @param {number} head @param {Float32Array} three @param {Float32Array} out */
    look(head, three, out) {
      const { size, room, count, keys, values, weights } = this;
      const [first, begin] = [head * room, head * size];
      const scale = 1 / Math.sqrt(size);
      let most = NEVER;
      for (let cell = 0; cell < count; cell++) {
        let dot = 0;
        const at = (first + cell) * size;
        for (let i = 0; i < size; i++) dot += three[begin + i] * keys[at + i];
        weights[first + cell] = dot * scale;
        most = Math.max(most, weights[first + cell]);
      }
      let sum = 0;
      for (let cell = 0; cell < count; cell++) sum += weights[first + cell] = Math.exp(weights[first + cell] - most);
      out.fill(0, begin, begin + size);
      for (let cell = 0; cell < count; cell++) {
        const weight = (weights[first + cell] /= sum);
        const at = (first + cell) * size;
        for (let i = 0; i < size; i++) out[begin + i] += weight * values[at + i];
      }
    }

    /** TOVA's score: the attention of the newest query, the same for all heads, which hold the same entries. */
    meanOfHeads() {
      const { heads, room, count, weights, scores } = this;
      for (let cell = 0; cell < count; cell++) {
        let sum = 0;
        for (let head = 0; head < heads; head++) sum += weights[head * room + cell];
        for (let head = 0; head < heads; head++) scores[head * room + cell] = sum / heads;
      }
    }
  }

  /**
   * An empty cache of a model. @param {any} model @param {number} room cells a head
   * @param {keyof typeof POLICIES | ""} [key] none: nothing ever goes @param {(t: number, room: number) => number} [drawn]
   * @returns {Cells[]}
   */
  function emptyCache(model, room, key = "", drawn = () => 0) {
    const score = key === "h2o" || key === "tova" ? SCORES[key] : "";
    return model.cache((/** @type {number} */ heads, /** @type {number} */ size) => {
      return new Cells(heads, size, room, key ? POLICIES[key](drawn) : null, score);
    });
  }

  Object.assign(kvTry, { Cells, POLICIES, emptyCache });
})();
