// What stands under every explorer: reset, a link to the setting, downloads, the data as a table.
// The setting lives in the address's fragment, by the figure's name: #fig-curve:window=64&model=gemma3-270m.
// Other explorers of the page that were moved follow behind a semicolon.
// A classic script without eval.
(function () {
  "use strict";

  const LINK_DELAY = 250; // milliseconds of rest before the address is brought up to date
  const SHOWN_ROWS = 200; // of a table; the CSV has all
  const PART = /^([\w-]+):(.*)$/;
  const UNNAMED = /^id\d+$/; // the name of a figure that its page gives none
  const HIDDEN = new Set(["sentence"]); // columns that the sentence under the picture already says

  /** A text as a part of a name or an address. */
  const slug = (text) => text.toLowerCase().replace(/[^a-z0-9]+/g, "-").slice(0, 48).replace(/-$/, "");

  const labelOf = (root) => slug(root.getAttribute("aria-label") || "chart");

  /** The name of an explorer: its figure's, or its label; links hold it, wherever on the page it stands. */
  function nameOf(root) {
    const figure = root.closest("figure");
    return figure && figure.id && !UNNAMED.test(figure.id) ? figure.id : labelOf(root);
  }

  function element(name, properties, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  const explorers = []; // of the page: what each says of itself in a link, and how its own link is brought up to date

  /** The address's parts: name of an explorer, its settings; the first is the one to look at. */
  const parts = () => location.hash.slice(1).split(";").map((part) => part.match(PART)).filter(Boolean);

  /** The settings that the address asks of this explorer; null when it speaks of others or of none. */
  function asked(root) {
    const [, , text] = parts().find(([, name]) => name === nameOf(root)) || [];
    return text === undefined ? null : new URLSearchParams(text);
  }

  const isFirst = (root) => parts()[0]?.[1] === nameOf(root);

  function download(name, type, text) {
    const link = element("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  const columnsOf = (rows) => Object.keys(rows[0] || {});

  /** Names of columns, with their units. */
  const headings = (names, units) => names.map((name) => (units[name] ? `${name} (${units[name]})` : name));

  /** Rows as CSV, units in the headings. */
  function csv(rows, units) {
    const cell = (value) => {
      const text = value == null ? "" : String(value);
      return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    const names = columnsOf(rows).filter((name) => !HIDDEN.has(name));
    const heads = headings(names, units);
    return [heads, ...rows.map((row) => names.map((name) => row[name]))].map((line) => line.map(cell).join(",")).join("\n") + "\n";
  }

  function table(rows, units) {
    const names = columnsOf(rows).filter((name) => !HIDDEN.has(name));
    const heads = headings(names, units);
    const line = (kind, values) => element("tr", {}, ...values.map((value) => element(kind, { textContent: value ?? "" })));
    const body = rows.slice(0, SHOWN_ROWS).map((row) => line("td", names.map((name) => row[name])));
    return element("table", {}, element("thead", {}, line("th", heads)), element("tbody", {}, ...body));
  }

  /** Where data come from, and how to make them again; nothing where that isn't known. */
  function source(origin) {
    if (!origin) return [];
    if (origin.note) return [element("p", { textContent: origin.note })];
    if (!origin.command) return [element("p", { textContent: "Computed from formulas; nothing was measured for it." })];
    const code = (text) => element("code", { textContent: text });
    const names = origin.tables.flatMap((name, i) => [i ? ", " : "", code(name)]);
    return [element("p", {}, "From the stored tables ", ...names, ". To make them again: ", code(origin.command))];
  }

  /**
   * Puts the tools under an explorer. `settings`: {name: {values, initial, get(), set(value)}}, without values if any text will do;
   * `tables(): [{name, rows, shown}]`, the data behind the picture and the part now in it;
   * `svg(): Promise<string>` or nothing; `origin`: {tables, command, units}, of the data, or nothing. Returns `moved()`, to be called when a control has moved.
   */
  function addTools(root, settings, tables, svg, origin) {
    const units = origin?.units ?? {};
    const name = labelOf(root);
    const bar = element("div", { className: "kv-tools" });
    const status = element("span", { className: "kv-status", role: "status" });
    const panel = element("div", { className: "kv-table", hidden: true, tabIndex: 0, role: "region" });
    panel.setAttribute("aria-label", "the data behind this picture");
    let timer = 0;

    const button = (text, title, act) => {
      const made = element("button", { type: "button", textContent: text, title });
      made.addEventListener("click", act);
      bar.append(made);
      return made;
    };

    const changed = () => Object.entries(settings).filter(([, setting]) => setting.get() !== setting.initial);
    const own = () => `${nameOf(root)}:${new URLSearchParams(changed().map(([key, setting]) => [key, setting.get()]))}`;

    /** The link to this explorer, with all others that were moved. */
    function fragment() {
      const others = explorers.filter((one) => one.root !== root && one.changed().length > 0);
      return `#${[own(), ...others.map((one) => one.own())].join(";")}`;
    }

    function fill() {
      if (panel.hidden) return;
      const parts = tables().flatMap(({ rows, shown }) => {
        const count = `${Math.min(shown.length, SHOWN_ROWS)} of ${rows.length} rows: those of this setting.`;
        return [element("p", { textContent: shown.length < rows.length ? count : `${rows.length} rows.` }), table(shown, units)];
      });
      panel.replaceChildren(...source(origin), ...parts);
    }

    function moved() {
      for (const one of explorers) one.refresh();
      status.textContent = "";
      fill();
      clearTimeout(timer);
      timer = setTimeout(() => {
        try {
          history.replaceState(null, "", fragment());
        } catch {} // some browsers forbid it for files: the link still holds the setting
      }, LINK_DELAY);
    }

    function apply(wanted) {
      for (const [key, setting] of Object.entries(settings)) {
        const text = wanted.get(key) ?? String(setting.initial);
        const value = setting.values ? setting.values.find((one) => String(one) === text) : text;
        if (value !== undefined && value !== setting.get()) setting.set(value);
      }
    }

    button("Reset", "Back to the first setting", () => {
      apply(new URLSearchParams());
      root.dispatchEvent(new Event("kv-reset"));
      status.textContent = "Back at the first setting.";
    });
    const link = element("a", { textContent: "Link to this setting", href: fragment() });
    link.addEventListener("click", async (event) => {
      event.preventDefault();
      clearTimeout(timer);
      history.replaceState(null, "", fragment());
      try {
        await navigator.clipboard.writeText(location.href);
        status.textContent = "Link copied.";
      } catch {
        status.textContent = "The address bar now holds the link.";
      }
    });
    bar.append(link);
    explorers.push({ root, own, changed, refresh: () => (link.href = fragment()) });
    button("Embed", "Copy what shows this explorer on another page", async () => {
      const address = `${location.href.split("#")[0]}${fragment()}`.replaceAll("&", "&amp;").replaceAll('"', "&quot;");
      const title = root.getAttribute("aria-label").replaceAll('"', "&quot;");
      try {
        await navigator.clipboard.writeText(`<iframe src="${address}" title="${title}" width="100%" height="720"></iframe>`);
        status.textContent = "Copied: an iframe with this setting.";
      } catch {
        status.textContent = "The clipboard is not open to this page.";
      }
    });
    if (svg) button("SVG", "Download the picture", async () => download(`${name}.svg`, "image/svg+xml", await svg()));
    const kinds = tables();
    kinds.forEach(({ rows }, i) => {
      const number = kinds.length > 1 ? ` ${i + 1}` : "";
      const file = `${name}${number.replace(" ", "-")}.csv`;
      button(`CSV${number}`, `Download the data${rows.length ? ` (${rows.length} rows)` : ""}`, () => download(file, "text/csv", csv(tables()[i].rows, units)));
    });
    const toggle = button("Data", "The data behind this picture, and the command that makes them", () => {
      panel.hidden = !panel.hidden;
      toggle.setAttribute("aria-expanded", !panel.hidden);
      fill();
    });
    toggle.setAttribute("aria-expanded", false);
    button("Keys", "How to move it from the keyboard", () => {
      status.textContent = root.matches(".kv-passage, .kv-try")
        ? "Tab goes from control to control. In the text, arrow keys go from word to word and line to line; Escape leaves it."
        : "Tab goes from control to control. Arrow keys move a slider, Page Up and Page Down by more, Home and End to its ends.";
    });
    bar.append(status);
    root.append(bar, panel);

    function follow() {
      const wanted = asked(root);
      if (!wanted || String(wanted) === own().replace(PART, "$2")) return;
      apply(wanted);
      if (isFirst(root)) root.scrollIntoView({ block: "start" });
    }
    window.addEventListener("hashchange", follow);
    const wanted = asked(root);
    if (wanted) {
      apply(wanted);
      const show = () => isFirst(root) && root.scrollIntoView({ block: "start" });
      if (document.readyState === "complete") show();
      else window.addEventListener("load", show);
    }
    return moved;
  }

  window.kvTools = addTools;
})();
