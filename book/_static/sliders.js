// @ts-check
// Sliders of explorers: a range input that walks over a list of values, on a track that is even, logarithmic, or that of
// the axis below it. Classic script, no eval.
(function () {
  "use strict";

  const FEW = 40; // values of a slider whose thumb jumps from one to the next while it is dragged
  const MARKED = 14; // values at most that have a tick each
  const STRIDES = 100; // presses of an arrow key from one end of a free track to the other, at most

  /**
   * What a page says of a slider. `axis`: of the picture, along which a rule follows it; `places`: of each value there,
   * where that isn't the value itself, a list for each setting of the controls in `by`; `aligned`: the track is the axis's.
   * @typedef {{ name: string, values: number[], value: number, scale: "linear" | "log", unit: string,
   *   axis?: "x" | "y", aligned?: boolean, by?: string[], places?: any }} Slider
   * How to move it: to a value, or to a place among the values; and how to come to rest.
   * @typedef {{ set: (value: number) => void, go: (place: number) => void, at: () => number, rest: () => void }} Moves
   */

  /** Where in the rising `places` the one nearest to `place` is. @param {number[]} places @param {number} place */
  function nearest(places, place) {
    let low = 0;
    let high = places.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (places[middle] <= place) low = middle;
      else high = middle;
    }
    return place - places[low] <= places[high] - place ? low : high;
  }

  /** A number with its unit, as `kvlib.charts.controls` writes it: 1,024 tokens, 1 token. @param {number} value @param {string} unit */
  function said(value, unit) {
    const one = unit.replace(/ies$/, "y").replace(/s$/, "");
    return `${value.toLocaleString("en-US", { maximumFractionDigits: 12 })} ${value === 1 ? one : unit}`.trim();
  }

  /** Where a slider's values lie on its track. @param {Slider} slider @returns {number[]} */
  function track({ values, scale, aligned, places, by }) {
    if (scale !== "log") return aligned ? [...values] : values.map((_, i) => i);
    const shown = (aligned && places && (by ? Object.values(places)[0] : places)) || values;
    return shown.map(Math.log);
  }

  /** Marks the values of a slider that has few. @param {HTMLElement} input @param {number[]} places on its track */
  function ticks(input, places) {
    if (places.length > MARKED) return;
    const [first, last] = [places[0], places[places.length - 1]];
    const marks = places.map((place) => {
      const part = (place - first) / (last - first);
      return `linear-gradient(var(--kv-tick) 0 0) calc(${100 * part}% + ${0.5 - part} * var(--kv-thumb)) 100% / 2px 0.3rem no-repeat`;
    });
    input.style.setProperty("--kv-ticks", marks.join(", "));
  }

  /**
   * Lets a range input walk over the slider's values; calls `moved(value)`.
   * @param {Slider} slider @param {HTMLInputElement} input @param {(value: number) => void} moved @returns {Moves}
   */
  function connect(slider, input, moved) {
    const places = track(slider);
    const even = slider.scale !== "log" && !slider.aligned;
    const output = /** @type {Element} */ (input.parentElement?.querySelector(".kv-value"));
    let at = slider.values.indexOf(slider.value);
    input.min = String(places[0]);
    input.max = String(places[places.length - 1]);
    input.step = even ? "1" : "any";
    const fill = () => {
      const part = (Number(input.value) - places[0]) / (places[places.length - 1] - places[0]);
      input.style.setProperty("--kv-fill", `${100 * part}%`);
    };
    const rest = () => {
      input.value = String(places[at]); // where the value lies, not where the thumb was let go
      fill();
    };
    rest();
    ticks(input, places);
    input.addEventListener("input", () => {
      at = nearest(places, Number(input.value));
      if (places.length <= FEW) input.value = String(places[at]);
      fill();
      const text = said(slider.values[at], slider.unit);
      output.textContent = text;
      input.setAttribute("aria-valuetext", text);
      moved(slider.values[at]);
    });
    input.addEventListener("change", rest);
    const go = (/** @type {number} */ to) => {
      input.value = String(places[Math.min(Math.max(to, 0), places.length - 1)]);
      input.dispatchEvent(new Event("input", { bubbles: true }));
    };
    const moves = { set: (/** @type {number} */ value) => go(slider.values.indexOf(value)), go, at: () => at, rest };
    if (even) return moves; // its arrow keys already go to the next value
    /** @type {Record<string, number>} */
    const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 };
    const stride = (places[places.length - 1] - places[0]) / STRIDES;
    input.addEventListener("keydown", (event) => {
      if (!(event.key in steps) || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      const step = steps[event.key];
      const far = nearest(places, places[at] + step * stride);
      go(step > 0 ? Math.max(far, at + 1) : Math.min(far, at - 1));
    });
    return moves;
  }

  /** @type {any} */ (window).kvSliders = { connect, nearest, ticks };
})();
