// @ts-check
// The small GPT-2's tokenizer: byte-level pair encoding, as `tokenizers` does it in Python.
(function () {
  "use strict";
  const kvTry = (/** @type {any} */ (globalThis).kvTry ??= {});

  const SPACE = "\\t-\\r \\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000"; // Unicode's White_Space
  const DIGIT = /\p{N}|[^\p{N}]+/gu; // each digit stands alone
  const WORD = new RegExp(
    `'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^${SPACE}\\p{L}\\p{N}]+|[${SPACE}]+(?![^${SPACE}])|[${SPACE}]+`,
    "gu",
  );

  /** The letter by which GPT-2 writes each byte: itself where it can be seen, else one from 256 on. */
  function letters() {
    const seen = (/** @type {number} */ byte) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
    let next = 256;
    return Array.from({ length: 256 }, (_, byte) => String.fromCodePoint(seen(byte) ? byte : next++));
  }

  class Tokenizer {
    /** @param {string} merges pairs of tokens, one pair a line, the first ones first */
    constructor(merges) {
      this.letters = letters();
      const bytes = new Map(this.letters.map((letter, byte) => [letter, byte]));
      const pairs = merges.split("\n").map((line) => line.split(" "));
      /** @type {string[]} */
      this.tokens = [...this.letters].sort((a, b) => a.charCodeAt(0) - b.charCodeAt(0));
      this.tokens.push(...pairs.map((pair) => pair.join("")));
      this.ids = new Map(this.tokens.map((token, id) => [token, id]));
      this.ranks = new Map(pairs.map((pair, rank) => [pair.join(" "), rank]));
      /** @type {Uint8Array[]} */
      this.bytes = this.tokens.map((token) => Uint8Array.from(token, (letter) => bytes.get(letter) ?? 0));
      /** @type {Map<string, number[]>} */
      this.known = new Map(); // words that were encoded before
    }

    /** The token ids of a text. @param {string} text @returns {number[]} */
    encode(text) {
      const found = [];
      for (const part of text.match(DIGIT) ?? []) {
        for (const word of part.match(WORD) ?? []) found.push(...this.word(word));
      }
      return found;
    }

    /** The token ids of one word: the pair that was merged first in training is merged first. @param {string} word */
    word(word) {
      const before = this.known.get(word);
      if (before) return before;
      const parts = Array.from(new TextEncoder().encode(word), (byte) => this.letters[byte]);
      for (;;) {
        let best = Infinity;
        let at = -1;
        for (let i = 0; i + 1 < parts.length; i++) {
          const rank = this.ranks.get(`${parts[i]} ${parts[i + 1]}`);
          if (rank !== undefined && rank < best) [best, at] = [rank, i];
        }
        if (at < 0) break;
        parts.splice(at, 2, parts[at] + parts[at + 1]);
      }
      const ids = parts.map((part) => /** @type {number} */ (this.ids.get(part)));
      this.known.set(word, ids);
      return ids;
    }

    /** The text of each token in a row; a character of several tokens comes with its last one. @param {ArrayLike<number>} ids */
    texts(ids) {
      const decoder = new TextDecoder("utf-8", { ignoreBOM: true }); // ignore it as a mark: it is text
      return Array.from(ids, (id) => decoder.decode(this.bytes[id], { stream: true }));
    }

    /** The text of one token by itself. @param {number} id */
    text(id) {
      return new TextDecoder("utf-8", { ignoreBOM: true }).decode(this.bytes[id]);
    }
  }

  kvTry.Tokenizer = Tokenizer;
})();
