// @ts-check
// Laws of the next token: from logits, their distances, their likeliest tokens, and draws from them.
(function () {
  "use strict";
  const kvTry = (/** @type {any} */ (globalThis).kvTry ??= {});

  /** Logits become log-probabilities, in place. @param {Float32Array} logits */
  function toLogLaw(logits) {
    let most = -Infinity;
    for (const value of logits) if (value > most) most = value;
    let sum = 0;
    for (const value of logits) sum += Math.exp(value - most);
    const log = most + Math.log(sum);
    for (let i = 0; i < logits.length; i++) logits[i] -= log;
  }

  /**
   * How far the law q is from the law p: KL divergence in nats, total variation from 0 to 1.
   * Term by term p (log p/q + q/p - 1), which is never negative and loses no digits.
   * @param {Float32Array} p log-probabilities @param {Float32Array} q
   */
  function distances(p, q) {
    let [kl, tv] = [0, 0];
    for (let i = 0; i < p.length; i++) {
      const share = Math.exp(p[i]);
      const log = Math.max(p[i] - q[i], -80);
      kl += share * (log + Math.expm1(-log));
      tv += Math.abs(share - Math.exp(q[i]));
    }
    return { kl: Math.max(kl, 0), tv: tv / 2 };
  }

  /** The likeliest tokens and their probabilities, the likeliest first. @param {Float32Array} law @param {number} many */
  function likeliest(law, many) {
    /** @type {number[]} */
    const best = [];
    for (let id = 0; id < law.length; id++) {
      if (best.length === many && law[id] <= law[best[many - 1]]) continue;
      let at = best.length;
      while (at > 0 && law[id] > law[best[at - 1]]) at--;
      best.splice(at, 0, id);
      best.length = Math.min(best.length, many);
    }
    return best.map((id) => ({ id, share: Math.exp(law[id]) }));
  }

  /**
   * A token drawn from a law at a temperature; at 0 the likeliest. Tokens lie along the line from 0 to 1 by their ids,
   * so that two laws that agree draw the same token from the same number.
   * @param {Float32Array} law @param {number} temperature @param {number} at from 0 to 1
   */
  function draw(law, temperature, at) {
    const [first] = likeliest(law, 1);
    if (temperature === 0) return first.id;
    const most = law[first.id];
    let sum = 0;
    for (const log of law) sum += Math.exp((log - most) / temperature);
    let left = at * sum;
    for (let id = 0; id < law.length; id++) {
      left -= Math.exp((law[id] - most) / temperature);
      if (left < 0) return id;
    }
    return first.id;
  }

  /** Numbers from 0 to 1, the same for the same seed (mulberry32). @param {number} seed */
  function numbers(seed) {
    let state = seed >>> 0;
    return () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
      mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
      return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
    };
  }

  Object.assign(kvTry, { toLogLaw, distances, likeliest, draw, numbers });
})();
