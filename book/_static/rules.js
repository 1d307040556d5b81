// @ts-check
// The rule that follows a slider through the picture: it can be dragged, by mouse, pen or finger, and the slider of the
// horizontal axis has its thumb above it. Works on any picture of Vega with scales "x" and "y". Classic script, no eval.
(function () {
  "use strict";
  const { nearest } = /** @type {any} */ (window).kvSliders;

  const NEAR = 8; // pixels from a rule, where a mouse takes hold of it
  const TOUCH = 24; // pixels from a rule, where a finger does
  const SWIPE = 6; // pixels that a finger goes before it means to move something
  const AROUND = { side: 14, above: 34, below: 26 }; // pixels around the plot that belong to it

  /**
   * A slider that has a rule (see sliders.js), with its input and the ways to move it.
   * @typedef {{ name: string, values: number[], axis: "x" | "y", aligned: boolean, by?: string[], places?: any,
   *   input: HTMLInputElement, go: (place: number) => void, at: () => number, rest: () => void }} Ruled
   */

  /**
   * Lets the rules of a picture be dragged. `view` gives Vega's view, or nothing while none is drawn; `settings` are the
   * values of all controls. Returns a function that puts thumbs above their rules, to be called when it was drawn anew.
   * @param {HTMLElement} picture @param {Ruled[]} sliders @param {() => any} view @param {Record<string, any>} settings
   */
  function connect(picture, sliders, view, settings) {
    /** @type {{ slider: Ruled, pointer: number, x: number, y: number, moves: boolean } | null} */
    let held = null;

    /** The plot's box on the screen, and how many pixels of it one of Vega's has. */
    function plot() {
      const box = picture.querySelector("svg .root > g > .background")?.getBoundingClientRect();
      if (!box || !view()) return null;
      return { box, zoom: box.width / view().signal("width") };
    }

    /** Where the values of a slider lie on the screen, along its axis. @param {Ruled} slider @returns {number[]} */
    function pixels(slider) {
      const there = plot();
      if (!there) return [];
      const scale = view().scale(slider.axis);
      const of = slider.by && slider.by.map((name) => settings[name]).join("|");
      /** @type {number[]} */
      const places = (of === undefined ? slider.places : slider.places[of]) ?? slider.values;
      const begin = slider.axis === "x" ? there.box.left : there.box.top;
      return places.map((place) => begin + there.zoom * scale(place));
    }

    /** A pointer's place along an axis. @param {Ruled} slider @param {{ clientX: number, clientY: number }} event */
    const along = (slider, event) => (slider.axis === "x" ? event.clientX : event.clientY);

    /** The rule that is nearest to a pointer in or around the plot, and how far it is. @param {PointerEvent | Touch} event */
    function nearestRule(event) {
      const there = plot();
      if (!there) return null;
      const { left, right, top, bottom } = there.box;
      const aside = event.clientX < left - AROUND.side || event.clientX > right + AROUND.side;
      if (aside || event.clientY < top - AROUND.above || event.clientY > bottom + AROUND.below) return null;
      const far = sliders.map((slider) => Math.abs(pixels(slider)[slider.at()] - along(slider, event)));
      const first = far.indexOf(Math.min(...far));
      return { slider: sliders[first], far: far[first] };
    }

    /** Moves the slider to the value whose rule is nearest to the pointer. @param {Ruled} slider @param {PointerEvent} event */
    function follow(slider, event) {
      const rises = slider.axis === "x" ? 1 : -1; // a larger value stands higher, where pixels are fewer
      const to = nearest(pixels(slider).map((pixel) => rises * pixel), rises * along(slider, event));
      if (to !== slider.at()) slider.go(to);
    }

    /** @param {PointerEvent} event */
    function take(event) {
      if (!held) return;
      held.moves = true;
      picture.setPointerCapture(event.pointerId);
      picture.style.cursor = cursorOf(held.slider);
      follow(held.slider, event);
    }

    const cursorOf = (/** @type {Ruled} */ slider) => (slider.axis === "x" ? "ew-resize" : "ns-resize");

    function release() {
      held?.slider.rest();
      held = null;
      picture.style.cursor = "";
    }

    picture.addEventListener("pointerdown", (event) => {
      const found = event.isPrimary && event.button === 0 && nearestRule(event);
      if (!found) return;
      held = { slider: found.slider, pointer: event.pointerId, x: event.clientX, y: event.clientY, moves: false };
      found.slider.input.focus({ preventScroll: true }); // arrow keys go on from here
      if (event.pointerType === "mouse") event.preventDefault(); // it would take the focus away, and mark words
      if (event.pointerType === "mouse" || found.far <= TOUCH) take(event);
    });
    picture.addEventListener("pointermove", (event) => {
      if (!held) {
        const found = event.pointerType !== "touch" && nearestRule(event);
        picture.style.cursor = found && found.far <= NEAR ? cursorOf(found.slider) : "";
      } else if (held.pointer === event.pointerId) {
        const [across, down] = [Math.abs(event.clientX - held.x), Math.abs(event.clientY - held.y)];
        const meant = held.slider.axis === "x" && across > SWIPE && across > down;
        if (held.moves) follow(held.slider, event);
        else if (meant) take(event);
      }
    });
    picture.addEventListener("pointerup", (event) => {
      if (!held || held.pointer !== event.pointerId) return;
      const tapped = Math.hypot(event.clientX - held.x, event.clientY - held.y) <= SWIPE;
      if (!held.moves && tapped) follow(held.slider, event);
      release();
    });
    picture.addEventListener("pointercancel", release); // the browser scrolls the page instead
    picture.addEventListener(
      "touchstart",
      (event) => {
        const found = event.touches.length === 1 && nearestRule(event.touches[0]);
        if (found && found.far <= TOUCH) event.preventDefault(); // a rule is dragged, the page stays
      },
      { passive: false },
    );
    picture.dataset.rules = [...new Set(sliders.map((slider) => slider.axis))].join(" ");

    /** @param {HTMLElement} input @param {string} name @param {number} pixels */
    function put(input, name, pixels) {
      const text = `${pixels.toFixed(1)}px`;
      if (input.style.getPropertyValue(name) !== text) input.style.setProperty(name, text);
    }

    return () => {
      for (const slider of sliders.filter((one) => one.aligned)) {
        const there = pixels(slider);
        const label = slider.input.parentElement;
        if (!there.length || !label) continue;
        put(slider.input, "--kv-from", there[0] - label.getBoundingClientRect().left);
        put(slider.input, "--kv-span", there[there.length - 1] - there[0]);
        slider.input.dataset.aligned = "";
      }
    };
  }

  /** @type {any} */ (window).kvRules = { connect };
})();
