// A passage whose words are shaded by what a smaller cache loses at them. Classic script, no eval.
(function () {
  "use strict";

  /** A token as one can read it: spaces and line ends made visible. */
  const shown = (text) => `“${text.replace(/\n/g, "⏎").trim() || "␣"}”`;

  /** A share as one reads it; shares are kept to a tenth of a percent. */
  const percent = (share) => (share === 0 ? "less than 0.1%" : `${share}%`);

  function passage(root) {
    const data = JSON.parse(root.querySelector(".kv-data").textContent);
    const [policy, budget] = [root.querySelector("select"), root.querySelector("input")];
    const output = root.querySelector(".kv-value");
    const words = Array.from(root.querySelectorAll(".kv-words .kv-token"));
    const reading = root.querySelector(".kv-reading");
    const table = root.querySelector(".kv-guesses");
    let at = -1; // the word that is looked at
    let tools = () => {}; // says to the tools that a control has moved

    const cell = () => data.cells[`${data.policies[policy.selectedIndex]}|${data.budgets[budget.value]}`];

    /** The likeliest tokens of one law, as a list. */
    function guesses(title, from) {
      const part = document.createElement("div");
      const head = document.createElement("strong");
      head.textContent = title;
      const list = document.createElement("ol");
      const row = from.guesses[at];
      for (let k = 0; k < row.length; k += 2) {
        const item = document.createElement("li");
        item.textContent = `${shown(data.texts[row[k]])} ${percent(row[k + 1])}`;
        list.append(item);
      }
      part.append(head, list);
      return part;
    }

    function say() {
      const now = cell();
      const name = data.policies[policy.selectedIndex];
      const size = data.budgets[budget.value];
      const full = data.cells[data.full];
      if (at < 0) {
        const hurt = now.kl.filter((kl) => kl >= 0.5).length;
        const mean = now.kl.reduce((sum, kl) => sum + kl, 0) / now.kl.length;
        reading.textContent =
          `With ${size} entries, ${name}: ${hurt} of ${now.kl.length} tokens lose half a nat or more; ` +
          `the mean is ${mean.toPrecision(2)} nats${name.startsWith("random") ? " (one draw)" : ""}. ` +
          "Point at a word or tap it, or go there with the arrow keys.";
        table.replaceChildren();
        return;
      }
      reading.textContent =
        `At ${shown(data.tokens[at])} the law is ${now.kl[at]} nats from the full cache's. ` +
        `The text's own token had ${percent(full.own[at])} with everything kept, ` +
        `${percent(now.own[at])} with ${size} entries.`;
      table.replaceChildren(guesses("everything kept", full), guesses(`${name}, ${size} entries`, now));
    }

    function shade() {
      const { kl } = cell();
      words.forEach((word, i) => {
        word.dataset.shade = data.shades.filter((low) => kl[i] >= low).length;
      });
      const text = `${data.budgets[budget.value]} entries`;
      output.textContent = text;
      budget.setAttribute("aria-valuetext", text);
      budget.style.setProperty("--kv-fill", `${(100 * budget.value) / budget.max}%`);
      say();
    }

    function look(i) {
      if (at >= 0) words[at].removeAttribute("aria-selected");
      words[at < 0 ? 0 : at].tabIndex = -1;
      at = i;
      words[at].setAttribute("aria-selected", "true");
      words[at].tabIndex = 0;
      say();
    }

    /** No word is looked at any more. */
    function leave() {
      if (at < 0) return;
      words[at].removeAttribute("aria-selected");
      at = -1;
      say();
    }

    /** The word below or above, nearest to the left or right. */
    function vertically(i, down) {
      const here = words[i].getBoundingClientRect();
      const far = (box) => (down ? box.top - here.top : here.top - box.top);
      const boxes = words.map((word) => word.getBoundingClientRect());
      const beyond = boxes.map((box, k) => ({ k, far: far(box), aside: Math.abs(box.left - here.left) }));
      const others = beyond.filter((place) => place.far > here.height / 2);
      const line = Math.min(...others.map((place) => place.far));
      const near = others.filter((place) => place.far < line + here.height / 2);
      return near.length ? near.reduce((best, place) => (place.aside < best.aside ? place : best)).k : i;
    }

    root.addEventListener("keydown", (event) => {
      if (event.key === "Escape") leave();
    });
    root.addEventListener("kv-reset", leave);
    root.querySelector(".kv-words").addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse" && !root.querySelector(".kv-words").contains(document.activeElement)) leave();
    });
    words.forEach((word, i) => {
      word.setAttribute("role", "option");
      word.tabIndex = i === 0 ? 0 : -1;
      word.addEventListener("pointerenter", () => look(i));
      word.addEventListener("focus", () => look(i));
      word.addEventListener("keydown", (event) => {
        const ways = {
          ArrowRight: () => Math.min(i + 1, words.length - 1),
          ArrowLeft: () => Math.max(i - 1, 0),
          ArrowDown: () => vertically(i, true),
          ArrowUp: () => vertically(i, false),
        };
        if (!(event.key in ways) || event.altKey || event.ctrlKey || event.metaKey) return;
        event.preventDefault();
        words[ways[event.key]()].focus();
      });
    });
    /** Every word under the present policy and budget, as a table. */
    function rows() {
      const { kl, own } = cell();
      const now = { policy: data.policies[policy.selectedIndex], budget: data.budgets[budget.value] };
      const before = data.cells[data.full].own;
      return data.tokens.map((token, i) => ({ token, ...now, kl_nats: kl[i], percent_full: before[i], percent_bounded: own[i] }));
    }

    const moved = () => {
      shade();
      tools();
    };
    policy.addEventListener("change", moved);
    budget.addEventListener("input", moved);
    budget.value = Math.floor(data.budgets.length / 2);
    kvSliders.ticks(budget, data.budgets.map((_, i) => i));
    const settings = {
      policy: {
        values: data.policies,
        initial: data.policies[0],
        get: () => data.policies[policy.selectedIndex],
        set: (value) => {
          policy.selectedIndex = data.policies.indexOf(value);
          leave();
          moved();
        },
      },
      budget: {
        values: data.budgets,
        initial: data.budgets[budget.value],
        get: () => data.budgets[budget.value],
        set: (value) => {
          budget.value = data.budgets.indexOf(value);
          leave();
          moved();
        },
      },
    };
    shade();
    tools = kvTools(root, settings, () => [{ rows: rows(), shown: rows() }], undefined, data.origin);
  }

  for (const root of document.querySelectorAll(".kv-passage")) {
    try {
      passage(root);
    } catch (error) {
      const reading = root.querySelector(".kv-reading") || root;
      reading.textContent = `This passage could not be shaded: ${String(error.message || error).split("\n")[0]}`;
      reading.classList.add("kv-error");
    }
  }
})();
