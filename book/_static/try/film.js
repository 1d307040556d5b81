// @ts-check
// What a cache held, moment by moment: a row for each word that was read, a column for each entry. Blue is held, the
// brighter the more it is looked at; the bars beside the rows say what the answer lost.
(function () {
  "use strict";
  const kvTry = (/** @type {any} */ (globalThis).kvTry ??= {});

  const BARS = 0.2; // of the width, for the bars of loss
  const HIGH = 340; // pixels of all rows together; less where they are many
  const HELD = 0.24; // how strong an entry is drawn that nobody looks at
  const FULL = 10; // times its equal share of attention, where an entry is drawn at full strength
  const GAP = 4; // device pixels of a cell from which on cells stand apart

  /** How bright an entry is that has a share of the attention of `count` entries: 0 to 1. @param {number} share @param {number} count */
  const brightness = (share, count) => Math.min(1, Math.log2(1 + share * count) / Math.log2(1 + FULL));

  /**
   * What one layer holds after a row: for each token the part of the heads that hold it, and its attention, the mean of
   * those heads. @param {any} row @param {number} layer @param {number} head -1 for all @param {number} heads
   */
  function heldIn(row, layer, head, heads) {
    const { count, held, attention } = row.layers[layer];
    const parts = new Float32Array(row.t + 1);
    const shares = new Float32Array(row.t + 1);
    const [first, last] = head < 0 ? [0, heads] : [head, head + 1];
    for (let i = first * count; i < last * count; i++) {
      parts[held[i]] += 1 / (last - first);
      shares[held[i]] += attention[i] / (last - first);
    }
    return { parts, shares, count };
  }

  /** A colour of the page as red, green, blue. @param {string} name of a CSS variable @param {Element} root */
  function colour(name, root) {
    const pen = /** @type {any} */ (new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true }));
    pen.fillStyle = getComputedStyle(root).getPropertyValue(name).trim();
    pen.fillRect(0, 0, 1, 1);
    return pen.getImageData(0, 0, 1, 1).data;
  }

  class Film {
    /** @param {HTMLCanvasElement} canvas @param {(at: number) => void} choose told which row is pointed at */
    constructor(canvas, choose) {
      this.canvas = canvas;
      this.pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
      this.cell = 1; // its width, in device pixels
      this.line = 1; // its height
      this.tokens = 0;
      this.first = 0; // the rows that are drawn already end here
      this.picture = new OffscreenCanvas(1, 1);
      const point = (/** @type {PointerEvent} */ event) => {
        const y = (event.clientY - canvas.getBoundingClientRect().top) * devicePixelRatio;
        choose(Math.min(Math.max(Math.floor(y / this.line), 0), this.tokens - 1));
      };
      canvas.addEventListener("pointerdown", (event) => {
        canvas.setPointerCapture(event.pointerId);
        point(event);
      });
      canvas.addEventListener("pointermove", (event) => {
        if (canvas.hasPointerCapture(event.pointerId)) point(event);
      });
    }

    /** Begins anew for a text of so many tokens. @param {number} tokens */
    begin(tokens) {
      this.tokens = tokens;
      const width = Math.max(this.canvas.parentElement?.clientWidth ?? 0, 120) * devicePixelRatio;
      this.cell = Math.max(1, Math.min(Math.floor((width * (1 - BARS)) / tokens), 16 * devicePixelRatio));
      this.line = Math.max(1, Math.min(Math.floor((HIGH * devicePixelRatio) / tokens), this.cell));
      this.canvas.width = Math.floor(width);
      this.canvas.height = this.line * tokens;
      this.canvas.style.height = `${this.canvas.height / devicePixelRatio}px`;
      this.picture = new OffscreenCanvas(tokens, tokens);
      this.first = 0;
      this.blue = colour("--kv-series-1", this.canvas);
    }

    /**
     * Draws all rows, those that are new into the picture, and marks one of them.
     * @param {any[]} rows @param {number} layer @param {number} head @param {number} heads @param {number} marked
     * @param {(row: any) => number} loss from 0 to 1
     */
    draw(rows, layer, head, heads, marked, loss) {
      const { pen, cell, line, tokens, canvas } = this;
      if (!tokens) return;
      this.add(rows, layer, head, heads);
      const style = getComputedStyle(canvas);
      const [wide, high] = [cell * tokens, line * tokens];
      pen.clearRect(0, 0, canvas.width, canvas.height);
      pen.fillStyle = style.getPropertyValue("--kv-try-empty"); // all that a full cache would have held
      for (const { t } of rows) pen.fillRect(0, t * line, (t + 1) * cell, line);
      pen.imageSmoothingEnabled = false;
      pen.drawImage(this.picture, 0, 0, wide, high);
      if (line >= GAP) {
        for (let k = 1; k <= tokens; k++) {
          pen.clearRect(0, k * line - 1, wide, 1);
          pen.clearRect(k * cell - 1, 0, 1, high);
        }
      }
      const begin = wide + Math.max(4, 0.02 * canvas.width);
      pen.fillStyle = style.getPropertyValue("--kv-series-2");
      const thick = line >= GAP ? line - 1 : line;
      for (const row of rows) pen.fillRect(begin, row.t * line, loss(row) * (canvas.width - begin), thick);
      if (marked < 0 || marked >= tokens) return;
      pen.strokeStyle = style.getPropertyValue("--pst-color-text-base");
      pen.lineWidth = Math.max(1, devicePixelRatio);
      pen.strokeRect(0.5, marked * line - 1, canvas.width - 1, line + 2);
    }

    /** New rows, a pixel an entry. @param {any[]} rows @param {number} layer @param {number} head @param {number} heads */
    add(rows, layer, head, heads) {
      if (rows.length <= this.first) return;
      const pen = /** @type {any} */ (this.picture.getContext("2d"));
      const image = pen.createImageData(this.tokens, rows.length - this.first);
      for (const row of rows.slice(this.first)) {
        const { parts, shares, count } = heldIn(row, layer, head, heads);
        for (let entry = 0; entry <= row.t; entry++) {
          if (!parts[entry]) continue;
          const strength = HELD * parts[entry] + (1 - HELD) * brightness(shares[entry], count);
          image.data.set(this.blue.subarray(0, 3), 4 * ((row.t - this.first) * this.tokens + entry));
          image.data[4 * ((row.t - this.first) * this.tokens + entry) + 3] = 255 * strength;
        }
      }
      pen.putImageData(image, 0, this.first);
      this.first = rows.length;
    }
  }

  Object.assign(kvTry, { Film, heldIn, brightness });
})();
