// @ts-check
// A cache to see and touch: a text, the small GPT-2 that reads it with a bounded cache, and all that this does to its
// answers. Everything happens in the reader's browser.
(function () {
  "use strict";
  const kvTry = (/** @type {any} */ (globalThis).kvTry ??= {});
  const book = /** @type {any} */ (window); // its scripts: tools.js, sliders.js; there may be none

  const BUDGETS = [6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256];
  const FIRST = 24; // the budget at first
  const POLICIES = {
    sinks: "4 sinks + recent",
    sliding: "sliding window",
    random: "random",
    h2o: "heavy hitters (H2O)",
    tova: "TOVA",
  };
  const MEASURES = { kl: "KL divergence", tv: "total variation" };
  const SHADES = { kl: [0.02, 0.1, 0.3, 1], tv: [0.05, 0.1, 0.2, 0.4] }; // where a word gets a darker bar
  const MOST = { kl: 1.5, tv: 1 }; // where a bar beside the film is at its end
  const [LAYERS, HEADS] = [5, 4]; // of the model
  const TOKENS = 400; // of a text
  const WRITTEN = 48; // tokens that it writes on
  const STEP = 90; // milliseconds of a word while it plays
  const REST = { budget: 40, text: 600 }; // milliseconds without a change, before it is read again
  const SEED = 1;

  /** @param {string} name @param {Record<string, any>} [set] @param {...(Node | string)} children @returns {any} */
  function element(name, set = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(set)) key in made ? (/** @type {any} */ (made)[key] = value) : made.setAttribute(key, value);
    made.append(...children);
    return made;
  }

  /** A token as one can read it. @param {string} text */
  const shown = (text) => text.replace(/\n/g, "⏎").replace(/^ (?=\S)/, "").replace(/ /g, "·") || "·";
  const quoted = (/** @type {string} */ text) => `“${shown(text)}”`;
  /** @param {number} share */
  const percent = (share) => (share >= 0.1 ? `${Math.round(100 * share)}%` : share >= 0.0005 ? `${(100 * share).toFixed(1)}%` : "under 0.1%");
  /** @param {number} value */
  const short = (value) => (value < 0.0005 ? "0.000" : value >= 10 ? value.toFixed(0) : value.toPrecision(2));
  const entries = (/** @type {number} */ count) => `${count} ${count === 1 ? "entry" : "entries"}`;

  /** Sets a control, as its reader would. @param {HTMLInputElement | HTMLSelectElement} control @param {string} value @param {string} kind */
  function tell(control, value, kind) {
    control.value = value;
    control.dispatchEvent(new Event(kind, { bubbles: true }));
  }

  /** A list as a setting of the tools. @param {HTMLSelectElement} list @returns {any} */
  const chosenIn = (list) => ({
    values: Array.from(list.options, (option) => option.value),
    initial: list.value,
    get: () => list.value,
    set: (/** @type {string} */ value) => tell(list, value, "change"),
  });

  class Try {
    /** @param {HTMLElement} root */
    constructor(root) {
      this.root = root;
      this.compact = "compact" in root.dataset;
      const data = JSON.parse(/** @type {HTMLElement} */ (root.querySelector(".kv-data")).textContent ?? "");
      /** @type {{ title: string, text: string }[]} */
      this.passages = data.passages;
      this.megabytes = data.megabytes;
      this.policy = "sinks";
      this.budget = FIRST;
      /** @type {"kl" | "tv"} */
      this.measure = "kl";
      this.layer = data.layer ?? 0;
      this.head = data.head ?? -1;
      /** @type {any[]} */
      this.rows = [];
      /** @type {string[]} */
      this.texts = [];
      /** @type {number[]} */
      this.ids = [];
      /** @type {HTMLElement[]} */
      this.cells = [];
      /** @type {{ full: number[], bounded: number[] }} */
      this.wrote = { full: [], bounded: [] };
      const written = () => element("p", { className: "kv-try-wrote" });
      this.sides = { full: written(), bounded: written() };
      this.scrubber = this.slider("step", "Step", 1, (at) => this.choose(at + 1));
      this.at = 0; // the word that is looked at
      this.looked = -1; // and the one that is pointed at, if any
      this.job = 0;
      this.timer = 0;
      this.playing = 0;
      this.chosen = false; // whether the reader chose a word
      this.wanted = 0; // a word that a link asks for, until its text has been read
      this.moved = () => {}; // says to the tools below that a setting has changed
      this.build();
    }

    // --- what stands on the page ----------------------------------------------------------------

    build() {
      this.says = element("p", { className: "kv-try-says", "aria-live": "polite" });
      this.start = element("div", { className: "kv-try-start" });
      this.stage = element("div", { className: "kv-try-stage", hidden: true });
      this.canvas = element("canvas", { role: "img", "aria-label": "What the cache held at each word; the sentence below reads it aloud." });
      this.words = element("p", { className: "kv-try-words", role: "listbox", "aria-label": "the text; arrow keys move from word to word" });
      this.summary = element("p", { className: "kv-try-summary" });
      this.lists = element("div", { className: "kv-try-lists" });
      this.film = new kvTry.Film(this.canvas, (/** @type {number} */ row) => this.choose(row + 1));
      const picture = element("div", { className: "kv-try-film" }, this.canvas);
      const text = element("div", { className: "kv-try-read" }, this.wordKey(), this.words, this.summary);
      const said = element("div", { className: "kv-try-said" }, this.says, this.lists);
      this.stage.append(this.controls(), picture, this.steps(), this.filmKey(), text, said);
      if (!this.compact) this.stage.append(this.details());
      if (!this.compact) this.stage.append(this.writing());
      this.root.append(this.start, this.stage);
      this.words.addEventListener("pointerleave", () => this.look(-1));
      new MutationObserver(() => this.restart()).observe(document.documentElement, { attributeFilter: ["data-theme"] });
      new ResizeObserver(() => {
        if (this.canvas.parentElement.clientWidth !== this.wide) this.restart();
      }).observe(this.canvas.parentElement);
      this.invite();
    }

    /** Where the film begins anew: another size or other colours. */
    restart() {
      this.wide = this.canvas.parentElement.clientWidth;
      if (!this.ids.length || !this.wide) return;
      this.film.begin(this.ids.length);
      this.draw();
    }

    /**
     * @param {string} name @param {string} label @param {Record<string, string>} options @param {string} value
     * @param {(value: string) => void} act
     */
    choice(name, label, options, value, act) {
      const list = element("select", { name, autocomplete: "off" });
      for (const [key, text] of Object.entries(options)) list.append(element("option", { value: key, textContent: text }));
      list.value = value;
      list.addEventListener("change", () => act(list.value));
      return element("label", { className: "kv-control" }, element("span", { className: "kv-label", textContent: label }), list);
    }

    /** @param {string} name @param {string} label @param {number} last @param {(at: number) => void} act */
    slider(name, label, last, act) {
      const input = element("input", { name, type: "range", min: "0", max: String(last), step: "1", autocomplete: "off" });
      const value = element("span", { className: "kv-try-value", "aria-hidden": "true" });
      input.addEventListener("input", () => act(Number(input.value)));
      const whole = element("label", { className: "kv-control" }, element("span", { className: "kv-label", textContent: label }), value, input);
      /** @param {number} at @param {string} text */
      const set = (at, text) => {
        input.value = String(at);
        value.textContent = text;
        input.setAttribute("aria-valuetext", text);
        input.style.setProperty("--kv-fill", `${(100 * at) / Math.max(1, Number(input.max))}%`);
      };
      return { whole, input, set };
    }

    controls() {
      const titles = Object.fromEntries(this.passages.map(({ title }, i) => [String(i), title]));
      this.own = element("textarea", { name: "own", rows: 4, spellcheck: false, hidden: true, "aria-label": "your own text" });
      this.own.addEventListener("input", () => {
        this.later(() => this.encode(this.own.value), REST.text);
        this.moved();
      });
      const passage = this.choice("text", "Text", { ...titles, own: "your own: type or paste" }, "0", (value) => {
        this.own.hidden = value !== "own";
        if (value === "own") {
          this.own.value ||= this.texts.join("");
          this.own.focus();
        }
        this.encode(value === "own" ? this.own.value : this.passages[Number(value)].text);
        this.moved();
      });
      const policy = this.choice("policy", "Policy", POLICIES, this.policy, (value) => {
        this.policy = value;
        this.read();
        this.moved();
      });
      const budget = this.slider("budget", "Budget", BUDGETS.length - 1, (at) => {
        this.budget = BUDGETS[at];
        budget.set(at, entries(this.budget));
        this.later(() => this.read(), REST.budget);
        this.moved();
      });
      book.kvSliders?.ticks(budget.input, BUDGETS.map((_, i) => i));
      budget.set(BUDGETS.indexOf(this.budget), entries(this.budget));
      const bar = element("div", { className: "kv-controls" }, passage, policy);
      bar.append(budget.whole);
      return element("div", {}, bar, this.own);
    }

    /** Whose attention is shown, and by what measure loss is. */
    details() {
      const layers = Object.fromEntries(Array.from({ length: LAYERS }, (_, k) => [String(k), `layer ${k + 1}`]));
      const heads = Object.fromEntries(Array.from({ length: HEADS + 1 }, (_, k) => [String(k - 1), k ? `head ${k}` : "all heads"]));
      return element(
        "div",
        { className: "kv-controls kv-try-details" },
        this.choice("layer", "Attention of", layers, String(this.layer), (value) => this.show({ layer: Number(value) })),
        this.choice("head", "and there of", heads, String(this.head), (value) => this.show({ head: Number(value) })),
        this.choice("measure", "Loss as", MEASURES, this.measure, (value) => this.show({ measure: value })),
      );
    }

    filmKey() {
      return element("p", {
        className: "kv-try-key",
        textContent: "Down: words as they are read. Across: entries, the oldest on the left. Blue is held, and stronger where the model looks. Grey was evicted. Orange is what the answer lost.",
      });
    }

    wordKey() {
      const states = { sink: "sink", recent: "recent", kept: "kept", gone: "evicted", now: "being read" };
      const cells = Object.entries(states).map(([state, text]) => element("span", { className: "kv-try-cell", "data-state": state, textContent: text }));
      cells.push(element("span", { className: "kv-try-cell", "data-state": "ahead", "data-loss": "4", textContent: "lost most" }));
      cells.push(element("span", { className: "kv-try-cell", "data-state": "ahead", "data-asked": "", textContent: "asked for" }));
      return element("p", { className: "kv-try-key", "aria-hidden": "true" }, ...cells);
    }

    steps() {
      const go = (/** @type {string} */ text, /** @type {string} */ title, /** @type {() => void} */ act) => {
        const button = element("button", { type: "button", textContent: text, title, "aria-label": title });
        button.addEventListener("click", act);
        return button;
      };
      this.player = go("▶", "Play", () => this.play(!this.playing));
      return element(
        "div",
        { className: "kv-try-steps" },
        go("◀", "One word back", () => this.choose(this.at - 1)),
        this.player,
        go("▶|", "One word on", () => this.choose(this.at + 1)),
        this.scrubber.whole,
      );
    }

    writing() {
      this.temperature = 0.8;
      this.write = element("button", { type: "button", className: "kv-try-go", textContent: "Let both write on" });
      this.write.addEventListener("click", () => this.writeOn());
      const how = this.choice("temperature", "Each word", { 0: "the likeliest", 0.8: "drawn, with the same dice" }, "0.8", (value) => {
        this.temperature = Number(value);
      });
      this.bounded = element("p", { className: "kv-try-title", textContent: "the bounded cache" });
      const side = (/** @type {any} */ head, /** @type {any} */ text) => element("div", {}, head, text);
      return element(
        "div",
        { className: "kv-try-writing" },
        element("div", { className: "kv-controls" }, this.write, how),
        element("div", { className: "kv-try-sides" }, side(element("p", { className: "kv-try-title", textContent: "everything kept" }), this.sides.full), side(this.bounded, this.sides.bounded)),
      );
    }

    // --- loading ---------------------------------------------------------------------------------

    /** Loads when it comes into view, or when asked for. */
    invite() {
      if (!("ask" in this.root.dataset)) {
        const seen = new IntersectionObserver((found) => {
          if (!found.some((entry) => entry.isIntersecting)) return;
          seen.disconnect();
          this.load();
        });
        seen.observe(this.root);
        return;
      }
      const button = element("button", { type: "button", className: "kv-try-go", textContent: `Load the model (${this.megabytes} MB)` });
      button.addEventListener("click", () => this.load());
      this.start.append(button);
    }

    async load() {
      const bar = element("progress", { max: 1, value: 0, "aria-label": "loading the model" });
      const text = element("span");
      this.start.replaceChildren(bar, text);
      try {
        const { about, bytes } = await kvTry.fetchModel((/** @type {number} */ share) => {
          bar.value = share;
          text.textContent = `Loading the model: ${(share * this.megabytes).toFixed(1)} of ${this.megabytes} MB`;
        });
        this.about = about;
        this.tokenizer = new kvTry.Tokenizer(about.merges);
        this.ask = kvTry.startEngine((/** @type {any} */ told) => this.hear(told));
        this.ask({ what: "load", job: ++this.job, about, bytes });
      } catch (error) {
        this.fail(String(/** @type {any} */ (error).message || error));
      }
    }

    /** @param {string} why */
    fail(why) {
      this.start.hidden = false;
      this.start.replaceChildren(element("p", { className: "kv-error", textContent: `The model cannot run here: ${why.split("\n")[0]}` }));
    }

    /** What the engine tells; of an older job it is not heard. @param {any} told */
    hear(told) {
      if (told.failed) return this.fail(told.failed);
      if (told.job !== this.job) return;
      if (told.rows) this.take(told.rows);
      if (told.wrote) this.written(told.wrote, told.id);
      if (told.done === "load") {
        this.start.hidden = true;
        this.stage.hidden = false;
        this.encode(this.passages[0].text);
        this.equip();
      }
      if (told.done === "read") this.finish();
      if (told.done === "write") this.write.disabled = false;
    }

    // --- tools -----------------------------------------------------------------------------------

    /** Link, data and reset, as under every other picture. */
    equip() {
      if (!book.kvTools) return;
      /** @type {Record<string, any>} */
      const settings = Object.fromEntries(
        Array.from(this.root.querySelectorAll("select"), (list) => [list.name, chosenIn(list)]),
      );
      const [own, budget] = [this.own, /** @type {HTMLInputElement} */ (this.root.querySelector("[name=budget]"))];
      settings.own = {
        initial: "",
        get: () => (own.hidden ? "" : own.value),
        set: (/** @type {string} */ text) => tell(own, text, "input"),
      };
      settings.budget = {
        values: BUDGETS,
        initial: FIRST,
        get: () => this.budget,
        set: (/** @type {number} */ value) => tell(budget, String(BUDGETS.indexOf(value)), "input"),
      };
      settings.step = {
        initial: "",
        get: () => (this.chosen ? String(this.at) : ""),
        set: (/** @type {string} */ at) => {
          [this.wanted, this.chosen] = [Number(at) || 0, false];
          if (!("reading" in this.stage.dataset)) this.finish();
        },
      };
      const data = () => [{ rows: this.data(), shown: this.data() }];
      const origin = { units: { budget: "entries", kl: "nats" }, note: "Computed in this page, by the small GPT-2." };
      this.moved = book.kvTools(this.root, settings, data, undefined, origin);
    }

    /** What is known of each word: how far the answers are apart, and its share in either. */
    data() {
      const setting = { policy: this.policy, budget: this.budget };
      return this.rows.slice(0, -1).map(({ t, kl, tv, full, bounded }) => {
        const shares = { share_full: full.own, share_bounded: bounded.own };
        return { position: t + 1, token: this.texts[t + 1], ...setting, kl, tv, ...shares };
      });
    }

    // --- reading ---------------------------------------------------------------------------------

    /** Reads once the reader's hand rests; what is shown is old from now on. @param {() => void} act @param {number} rest */
    later(act, rest) {
      this.stage.dataset.reading = "";
      clearTimeout(this.timer);
      this.timer = setTimeout(act, rest);
    }

    /** Another text. @param {string} text */
    encode(text) {
      const all = this.tokenizer.encode(text);
      this.cut = all.length > TOKENS;
      this.ids = all.slice(0, TOKENS);
      this.texts = this.tokenizer.texts(this.ids);
      [this.at, this.chosen] = [1, false];
      this.play(false);
      this.words.replaceChildren(...this.texts.flatMap((token, i) => this.cell(token, i)));
      this.cells = Array.from(this.words.querySelectorAll(".kv-try-cell"));
      if (this.ids.length < 2) {
        this.job += 1;
        this.rows = [];
        this.ids = [];
        this.says.textContent = "Type a few words more: one token has no next one.";
        this.lists.replaceChildren();
        this.summary.textContent = "";
        this.read(); // nothing
        return;
      }
      this.scrubber.input.max = String(this.ids.length - 2);
      this.read();
    }

    /** A token as a cell, and a break where its line ends. @param {string} token @param {number} i */
    cell(token, i) {
      const cell = element("span", { className: "kv-try-cell", role: "option", textContent: shown(token), tabIndex: i === 1 ? 0 : -1 });
      cell.setAttribute("aria-selected", "false");
      if (/^\s/.test(token)) cell.dataset.begins = "";
      cell.addEventListener("pointerenter", (/** @type {PointerEvent} */ event) => event.pointerType === "mouse" && this.look(i));
      cell.addEventListener("click", () => this.choose(i));
      cell.addEventListener("focus", () => cell.matches(":focus-visible") && this.choose(i));
      cell.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 }[event.key];
        if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
        event.preventDefault();
        this.cells[Math.min(Math.max(i + step, 1), this.cells.length - 1)].focus();
      });
      return token.includes("\n") ? [cell, element("br")] : [cell];
    }

    /** Reads the text with the present policy and budget. */
    read() {
      delete this.stage.dataset.reading;
      if (!this.ids.length) return;
      this.rows = [];
      this.film.begin(this.ids.length);
      this.wide = this.canvas.parentElement.clientWidth;
      for (const cell of this.cells) delete cell.dataset.loss;
      if (this.bounded) {
        this.bounded.textContent = `${POLICIES[/** @type {keyof POLICIES} */ (this.policy)]}, ${entries(this.budget)}`;
        for (const side of Object.values(this.sides)) side.replaceChildren();
        this.write.disabled = true;
      }
      this.stage.dataset.reading = "";
      this.ask({ what: "read", job: ++this.job, ids: this.ids, policy: this.policy, budget: this.budget, seed: SEED });
    }

    /** @param {any[]} rows */
    take(rows) {
      this.rows.push(...rows);
      for (const row of rows) this.shade(row);
      if (!this.chosen) this.at = Math.min(this.rows.length, this.ids.length - 1);
      this.draw();
    }

    /** The bar under the word that a row foretells. @param {any} row */
    shade(row) {
      const cell = this.cells[row.t + 1];
      if (cell) cell.dataset.loss = String(SHADES[this.measure].filter((low) => row[this.measure] >= low).length);
    }

    /** All is read: the word that lost most is looked at, unless the reader chose one. */
    finish() {
      const told = this.rows.slice(0, -1);
      if (!told.length) return;
      if (this.wanted) [this.at, this.chosen, this.wanted] = [Math.min(this.wanted, this.ids.length - 1), true, 0];
      if (!this.chosen) this.at = told.reduce((best, row) => (row.kl > this.rows[best].kl ? row.t : best), 0) + 1;
      const hurt = told.filter((row) => row.kl >= 0.1).length;
      const mean = told.reduce((sum, row) => sum + row.kl, 0) / told.length;
      this.summary.textContent =
        `${this.ids.length} tokens${this.cut ? ", the first of a longer text" : ""}. At ${hurt} of them the bounded cache ` +
        `loses a tenth of a nat or more; on average ${short(mean)} nats.`;
      if (this.write) this.write.disabled = false;
      delete this.stage.dataset.reading;
      this.draw();
    }

    // --- looking ---------------------------------------------------------------------------------

    /** Another layer, head or measure. @param {Record<string, any>} change */
    show(change) {
      Object.assign(this, change);
      this.rows.forEach((row) => this.shade(row));
      this.restart();
      this.moved();
    }

    /** A word that is pointed at, until the pointer leaves. @param {number} i */
    look(i) {
      this.looked = i > this.rows.length ? -1 : i;
      this.draw();
    }

    /** A word that stays. @param {number} i */
    choose(i) {
      if (!this.rows.length) return;
      this.chosen = true;
      this.at = Math.min(Math.max(i, 1), this.ids.length - 1, this.rows.length);
      this.draw();
      if (!this.playing) this.moved();
    }

    /** @param {boolean} on */
    play(on) {
      clearInterval(this.playing);
      this.playing = 0;
      this.player.textContent = on ? "❚❚" : "▶";
      for (const name of ["title", "ariaLabel"]) this.player[name] = on ? "Pause" : "Play";
      if (!on) return;
      if (this.at >= this.ids.length - 1) this.at = 1;
      this.playing = setInterval(() => {
        this.choose(this.at + 1);
        if (this.at >= this.ids.length - 1) this.play(false);
      }, STEP);
    }

    /** Draws in the next frame, however often it is asked to. */
    draw() {
      this.frame ||= requestAnimationFrame(() => {
        this.frame = 0;
        this.drawNow();
      });
    }

    drawNow() {
      const at = this.looked > 0 ? this.looked : this.at; // the word that is foretold
      const row = this.rows[at - 1];
      if (!row) return;
      this.film.draw(this.rows, this.layer, this.head, this.about.heads, at - 1, (/** @type {any} */ one) => {
        return Math.min(1, one[this.measure] / MOST[this.measure]);
      });
      this.mark(row, at);
      this.scrubber.set(this.at - 1, `${this.at} of ${this.ids.length - 1}`);
      this.say(row, at);
    }

    /** Each word's cell: what has become of its entry. @param {any} row @param {number} at */
    mark(row, at) {
      const { parts, shares, count } = kvTry.heldIn(row, this.layer, this.head, this.about.heads);
      const policy = kvTry.POLICIES[this.policy](() => 0);
      this.cells.forEach((/** @type {HTMLElement} */ cell, /** @type {number} */ i) => {
        const state = i > row.t ? "ahead" : i === row.t ? "now" : parts[i] ? policy.kind(i, row.t, this.budget) : "gone";
        if (cell.dataset.state !== state) cell.dataset.state = state;
        cell.style.setProperty("--glow", parts[i] ? kvTry.brightness(shares[i], count).toFixed(2) : "0");
        const selected = String(i === at);
        if (cell.getAttribute("aria-selected") !== selected) {
          cell.setAttribute("aria-selected", selected);
          cell.tabIndex = i === at ? 0 : -1;
        }
      });
    }

    /** @param {any} row @param {number} at */
    say(row, at) {
      const held = row.layers[this.layer].count;
      const [before, next] = [quoted(this.texts[at - 1]), quoted(this.texts[at])];
      const share = held === row.t + 1 ? `all ${held} of its entries` : `${held} of ${row.t + 1} entries`;
      this.says.textContent =
        `After ${before} the cache holds ${held === 1 ? "its one entry" : share}. Its law of the next token is ${short(row.kl)} nats from the full ` +
        `cache's (total variation ${short(row.tv)}). ${next} had ${percent(row.full.own)} with everything kept, and has ` +
        `${percent(row.bounded.own)} now.`;
      this.lists.replaceChildren(
        this.list("everything kept", row.full, at),
        this.list(`${POLICIES[/** @type {keyof POLICIES} */ (this.policy)]}, ${entries(this.budget)}`, row.bounded, at),
      );
    }

    /** The likeliest next tokens of one side, with bars. @param {string} title @param {any} side @param {number} at */
    list(title, side, at) {
      const items = side.guesses.map((/** @type {{ id: number, share: number }} */ { id, share }) => {
        const bar = element("span", { className: "kv-try-bar" });
        bar.style.setProperty("--share", String(share));
        const item = element("li", {}, element("code", { textContent: shown(this.tokenizer.text(id)) }), bar, element("span", { textContent: percent(share) }));
        if (id === this.ids[at]) item.dataset.came = "";
        return item;
      });
      return element("div", {}, element("p", { className: "kv-try-title", textContent: title }), element("ol", {}, ...items));
    }

    // --- writing ---------------------------------------------------------------------------------

    writeOn() {
      const begin = this.texts.slice(-6).join("").replace(/\n/g, " ⏎ ");
      this.wrote = { full: [], bounded: [] };
      for (const side of Object.values(this.sides)) side.replaceChildren(element("span", { textContent: `…${begin}` }));
      this.write.disabled = true;
      this.ask({ what: "write", job: ++this.job, count: WRITTEN, temperature: this.temperature, seed: SEED });
    }

    /** A token of one side; where the two have parted it is marked. @param {"full" | "bounded"} side @param {number} id */
    written(side, id) {
      const wrote = this.wrote[side];
      const k = wrote.push(id) - 1;
      const parted = side === "bounded" && this.wrote.full[k] !== id;
      this.sides[side].append(element(parted ? "mark" : "b", { textContent: this.tokenizer.texts(wrote).pop().replace(/\n/g, " ⏎ ") }));
    }
  }

  for (const root of document.querySelectorAll(".kv-try")) {
    try {
      new Try(/** @type {HTMLElement} */ (root));
    } catch (error) {
      root.append(element("p", { className: "kv-error", textContent: `This cache cannot be drawn: ${String(/** @type {any} */ (error).message || error)}` }));
    }
  }
})();
