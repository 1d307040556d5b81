// @ts-check
// The small GPT-2, forward: a few tokens go through each layer, whose attention sees the cells of its cache.
(function () {
  "use strict";
  const kvTry = (/** @type {any} */ (globalThis).kvTry ??= {});

  const GELU = Math.sqrt(2 / Math.PI);

  /** @typedef {{ rows: number, columns: number, values: Float32Array }} Matrix outputs × inputs */
  /** @typedef {{ layers: number, heads: number, width: number, positions: number, epsilon: number,
   *   tensors: [string, number, number?][], bytes: number }} About */

  /** Numbers of 16 bits, the upper halves of float32. @param {Uint8Array} bytes @param {number} from @param {number} count */
  function halves(bytes, from, count) {
    const bits = new Uint32Array(count);
    for (let i = 0; i < count; i++) bits[i] = (bytes[from + 2 * i] | (bytes[from + 2 * i + 1] << 8)) << 16;
    return new Float32Array(bits.buffer);
  }

  /**
   * The tensors out of their bytes: levels of all matrices first, then their steps and the vectors. It stops after each
   * one, so that a page can draw in between.
   * @param {About} about @param {Uint8Array} bytes @returns {Generator<null, Record<string, any>>}
   */
  function* unpack(about, bytes) {
    let half = about.tensors.reduce((sum, [, rows, columns]) => sum + (columns ? rows * columns : 0), 0);
    const levels = new Int8Array(bytes.buffer, bytes.byteOffset, half);
    /** @type {Record<string, any>} */
    const found = {};
    let from = 0;
    for (const [name, rows, columns] of about.tensors) {
      const numbers = halves(bytes, half, rows);
      half += 2 * rows;
      found[name] = columns ? { rows, columns, values: matrix(levels.subarray(from, from + rows * columns), numbers) } : numbers;
      from += columns ? rows * columns : 0;
      yield null;
    }
    if (half !== about.bytes) throw new Error(`expected ${half} bytes of weights, got ${about.bytes}`);
    return found;
  }

  /** Levels times the step of their row. @param {Int8Array} levels @param {Float32Array} steps */
  function matrix(levels, steps) {
    const values = new Float32Array(levels.length);
    const columns = levels.length / steps.length;
    for (let row = 0, i = 0; row < steps.length; row++) {
      const step = steps[row];
      for (const end = i + columns; i < end; i++) values[i] = levels[i] * step;
    }
    return values;
  }

  /**
   * x · matrixᵀ + bias for `count` rows of x; added to `out` where `add`, else written there. Four rows and two outputs
   * at a time, then what is left row by row: each number is read from memory as seldom as registers allow.
   * @param {Float32Array} x @param {number} count @param {Matrix} matrix @param {Float32Array} bias
   * @param {Float32Array} out @param {boolean} [add]
   */
  function times(x, count, matrix, bias, out, add = false) {
    for (let row = 0; row < count; row++) {
      if (add) for (let j = 0, at = row * matrix.rows; j < matrix.rows; j++, at++) out[at] += bias[j];
      else out.set(bias, row * matrix.rows);
    }
    let row = 0;
    for (; row + 4 <= count; row += 4) fourRows(x, row, matrix, out);
    for (; row < count; row++) oneRow(x, row, matrix, out);
  }

  /** @param {Float32Array} x @param {number} row @param {Matrix} matrix @param {Float32Array} out */
  function fourRows(x, row, matrix, out) {
    const rows = matrix.rows;
    const columns = matrix.columns;
    const values = matrix.values;
    const x0 = row * columns;
    const x1 = x0 + columns;
    const x2 = x1 + columns;
    const x3 = x2 + columns;
    for (let j = 0; j < rows; j += 2) {
      const w0 = j * columns;
      const w1 = w0 + columns;
      let a0 = 0.0, a1 = 0.0, a2 = 0.0, a3 = 0.0, b0 = 0.0, b1 = 0.0, b2 = 0.0, b3 = 0.0;
      for (let i = 0; i < columns; i++) {
        const a = values[w0 + i];
        const b = values[w1 + i];
        const p = x[x0 + i];
        const q = x[x1 + i];
        const r = x[x2 + i];
        const s = x[x3 + i];
        a0 += a * p;
        a1 += a * q;
        a2 += a * r;
        a3 += a * s;
        b0 += b * p;
        b1 += b * q;
        b2 += b * r;
        b3 += b * s;
      }
      const at = row * rows + j;
      out[at] += a0;
      out[at + 1] += b0;
      out[at + rows] += a1;
      out[at + rows + 1] += b1;
      out[at + 2 * rows] += a2;
      out[at + 2 * rows + 1] += b2;
      out[at + 3 * rows] += a3;
      out[at + 3 * rows + 1] += b3;
    }
  }

  /** @param {Float32Array} x @param {number} row @param {Matrix} matrix @param {Float32Array} out */
  function oneRow(x, row, matrix, out) {
    const rows = matrix.rows;
    const columns = matrix.columns;
    const values = matrix.values;
    const begin = row * columns;
    for (let j = 0; j < rows; j += 4) {
      const w0 = j * columns;
      const w1 = w0 + columns;
      const w2 = w1 + columns;
      const w3 = w2 + columns;
      let a = 0.0, b = 0.0, c = 0.0, d = 0.0;
      for (let i = 0; i < columns; i++) {
        const p = x[begin + i];
        a += values[w0 + i] * p;
        b += values[w1 + i] * p;
        c += values[w2 + i] * p;
        d += values[w3 + i] * p;
      }
      const at = row * rows + j;
      out[at] += a;
      out[at + 1] += b;
      out[at + 2] += c;
      out[at + 3] += d;
    }
  }

  /**
   * Layer norm of each row. @param {Float32Array} x @param {number} count @param {Float32Array} weight
   * @param {Float32Array} bias @param {number} epsilon @param {Float32Array} out
   */
  function norm(x, count, weight, bias, epsilon, out) {
    const width = weight.length;
    for (let row = 0, at = 0; row < count; row++, at += width) {
      let mean = 0;
      for (let i = 0; i < width; i++) mean += x[at + i];
      mean /= width;
      let spread = 0;
      for (let i = 0; i < width; i++) spread += (x[at + i] - mean) ** 2;
      const scale = 1 / Math.sqrt(spread / width + epsilon);
      for (let i = 0; i < width; i++) out[at + i] = (x[at + i] - mean) * scale * weight[i] + bias[i];
    }
  }

  class Model {
    /** @param {About} about @param {Record<string, any>} parts the tensors by their names */
    constructor(about, parts) {
      this.about = about;
      this.parts = parts;
      this.size = about.width / about.heads; // of a head
      this.vocabulary = this.parts["wte.weight"].rows;
    }

    /** An empty cache: the cells of each layer. @param {(heads: number, size: number) => any} make */
    cache(make) {
      return Array.from({ length: this.about.layers }, () => make(this.about.heads, this.size));
    }

    /**
     * Reads tokens, the first of which stands at `from`, and puts their entries into the cells.
     * @param {ArrayLike<number>} ids @param {number} from @param {any[]} cache cells of each layer
     * @param {(layer: number, token: number, cells: any) => void} [look] told after each query's attention
     * @returns {Float32Array} last hidden states, a row a token
     */
    forward(ids, from, cache, look) {
      const work = this.steps(ids, from, cache, look);
      let step = work.next();
      while (!step.done) step = work.next();
      return step.value;
    }

    /**
     * The same, but it stops after each layer: a few milliseconds.
     * @param {ArrayLike<number>} ids @param {number} from @param {any[]} cache
     * @param {(layer: number, token: number, cells: any) => void} [look]
     * @returns {Generator<null, Float32Array>}
     */
    *steps(ids, from, cache, look) {
      const { width, layers, epsilon, positions } = this.about;
      const { parts } = this;
      const count = ids.length;
      if (from + count > positions) throw new Error(`expected at most ${positions} tokens, got ${from + count}`);
      const [tokens, places] = [parts["wte.weight"].values, parts["wpe.weight"].values];
      const x = new Float32Array(count * width);
      for (let row = 0; row < count; row++) {
        for (let i = 0; i < width; i++) x[row * width + i] = tokens[ids[row] * width + i] + places[(from + row) * width + i];
      }
      const normed = new Float32Array(x.length);
      const mixed = new Float32Array(x.length);
      const three = new Float32Array(3 * x.length); // queries, keys, values of a row beside each other
      const inner = new Float32Array(count * parts["h.0.mlp.c_fc.weight"].rows);
      for (let layer = 0; layer < layers; layer++) {
        const of = (/** @type {string} */ name) => parts[`h.${layer}.${name}`];
        norm(x, count, of("ln_1.weight"), of("ln_1.bias"), epsilon, normed);
        times(normed, count, of("attn.c_attn.weight"), of("attn.c_attn.bias"), three);
        for (let row = 0; row < count; row++) {
          const own = three.subarray(3 * row * width, 3 * (row + 1) * width);
          cache[layer].attend(from + row, own, mixed.subarray(row * width, (row + 1) * width));
          look?.(layer, from + row, cache[layer]);
        }
        times(mixed, count, of("attn.c_proj.weight"), of("attn.c_proj.bias"), x, true);
        norm(x, count, of("ln_2.weight"), of("ln_2.bias"), epsilon, normed);
        times(normed, count, of("mlp.c_fc.weight"), of("mlp.c_fc.bias"), inner);
        for (let i = 0; i < inner.length; i++) {
          const v = inner[i];
          inner[i] = 0.5 * v * (1 + Math.tanh(GELU * (v + 0.044715 * v * v * v)));
        }
        times(inner, count, of("mlp.c_proj.weight"), of("mlp.c_proj.bias"), x, true);
        yield null;
      }
      norm(x, count, parts["ln_f.weight"], parts["ln_f.bias"], epsilon, normed);
      return normed;
    }

    /** Log-probabilities of the next token, a law a row of hidden states. @param {Float32Array} hidden */
    laws(hidden) {
      const count = hidden.length / this.about.width;
      const out = new Float32Array(count * this.vocabulary);
      times(hidden, count, this.parts["wte.weight"], new Float32Array(this.vocabulary), out);
      for (let row = 0; row < count; row++) kvTry.toLogLaw(out.subarray(row * this.vocabulary, (row + 1) * this.vocabulary));
      return out;
    }
  }

  Object.assign(kvTry, { Model, unpack });
})();
