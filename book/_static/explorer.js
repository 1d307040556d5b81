// Brings the explorers of a page to life: connects their HTML controls to Vega, with no kernel behind them.
// A classic script without eval, so that it runs from file:// and under the book's Content-Security-Policy.
(function () {
  "use strict";

  const DRAW_AHEAD = "400px 0px"; // draw a picture when it comes this close to the screen
  const REST = 1500; // milliseconds after loading, before pictures off the screen are drawn
  const TRIES = 20; // to fit a picture into its box, a tenth of a second apart

  const INKS = window.kvInks || {}; // colours of the pictures as they were built → the page's own, light or dark
  const MARKED = new RegExp([...Object.keys(INKS), '"font":"sans-serif"'].join("|"), "g");

  /** The page's present colour for each ink. */
  function palette() {
    const style = getComputedStyle(document.documentElement);
    return Object.fromEntries(Object.entries(INKS).map(([ink, name]) => [ink, style.getPropertyValue(name).trim()]));
  }

  /** A copy of the picture's Vega in the page's present colours and its font. */
  function dressed(spec) {
    const colours = palette();
    const font = `"font":${JSON.stringify(getComputedStyle(document.body).fontFamily)}`;
    return JSON.parse(JSON.stringify(spec).replace(MARKED, (mark) => colours[mark] ?? font));
  }

  /** Calls `moved(value)` with the value that a drop-down's chosen option stands for. Returns how to set it. */
  function connectChoice(choice, select, moved) {
    select.value = choice.values.indexOf(choice.value);
    select.addEventListener("change", () => moved(choice.values[select.value]));
    const set = (value) => {
      select.value = choice.values.indexOf(value);
      select.dispatchEvent(new Event("change", { bubbles: true }));
    };
    return { set };
  }

  /** The rows of a table that is kept by columns, in which texts are places in a list. */
  function rows(columns) {
    const names = Object.keys(columns);
    const values = names.map((name) => {
      const { texts, places } = columns[name];
      return texts ? places.map((place) => texts[place]) : columns[name];
    });
    if (values.some((column) => column.length !== values[0].length)) throw new Error("a table's columns are not equally long");
    return (values[0] || []).map((_, i) => Object.fromEntries(names.map((name, j) => [name, values[j][i]])));
  }

  /** Says in one line, where the picture would be, why there is none. */
  function complain(root, error) {
    const message = document.createElement("p");
    message.className = "kv-error";
    message.setAttribute("role", "alert");
    const [line] = String(error.message || error).split("\n");
    message.textContent = `This picture could not be drawn: ${line}`;
    (root.querySelector(".kv-picture") || root).replaceChildren(message);
  }

  /** One explorer: returns a function that draws it, or draws it anew in the page's present theme. */
  function explorer(root) {
    const { spec, tables, controls, origin } = JSON.parse(root.querySelector(".kv-data").textContent);
    const datasets = Object.fromEntries(Object.entries(tables).map(([name, table]) => [name, rows(table)]));
    const picture = root.querySelector(".kv-picture");
    const reading = root.querySelector(".kv-reading");
    const values = {};
    const settings = {}; // what the tools under the picture may read and set
    const ruled = []; // sliders that a rule in the picture follows
    let tools = () => {}; // says to them that a control has moved
    let align = () => {}; // puts sliders above their rules
    let drawn = null; // what vegaEmbed returned
    let queue = Promise.resolve(); // one drawing at a time
    let stale = false; // a control moved since the picture was last brought up to date
    let updating = false;

    const fail = (error) => complain(root, error);
    let trouble = null; // what Vega would say on the console and nowhere else
    const logger = {
      level: (...given) => (given.length ? logger : 2),
      error: (...said) => ((trouble ||= new Error(said.map((part) => part.message || part).join(" "))), logger),
      warn: (...said) => (console.warn(...said), logger),
      info: () => logger,
      debug: () => logger,
    };
    const check = () => {
      const error = trouble;
      trouble = null;
      if (error) throw error;
    };
    let waits = 0; // pictures that are asked for and not yet there
    const busy = (more) => {
      waits += more;
      root.setAttribute("aria-busy", waits > 0);
    };

    let longest = 0; // letters of the longest sentence so far, at this width
    function say() {
      if (!reading) return;
      const lines = picture.querySelectorAll(".reading_marks tspan, .reading_marks text:not(:has(tspan))");
      const sentence = Array.from(lines, (line) => line.textContent).join(" ");
      if (sentence === reading.textContent) return;
      reading.textContent = sentence;
      if (sentence.length <= longest) return;
      longest = sentence.length; // it stands above the picture, which must not jump when it wraps
      reading.style.minHeight = `${reading.offsetHeight}px`;
    }

    /** Moves that come while the picture is being computed are drawn together, with the last values. */
    async function update() {
      stale = true;
      if (updating || !drawn) return;
      updating = true;
      busy(1);
      try {
        while (stale) {
          stale = false;
          for (const name in values) drawn.view.signal(name, values[name]);
          await drawn.view.runAsync();
          check();
          say();
          align();
        }
      } catch (error) {
        fail(error);
      } finally {
        updating = false;
        busy(-1);
      }
    }

    async function draw() {
      if (typeof vegaEmbed === "undefined") throw new Error("the drawing library did not load");
      const current = dressed(spec);
      for (const signal of current.signals) {
        if (signal.name in values) signal.value = values[signal.name];
      }
      for (const part of current.data) {
        if (part.name in datasets) part.values = structuredClone(datasets[part.name]);
      }
      if (drawn) drawn.finalize();
      drawn = null;
      drawn = await vegaEmbed(picture, current, {
        ast: true,
        actions: false,
        renderer: "svg",
        defaultStyle: false,
        tooltip: { disableDefaultStyle: true },
      });
      drawn.view.logger(logger);
      if (!picture.querySelector("svg .role-mark > *")) throw new Error("it has no marks");
      const image = picture.querySelector("svg"); // one image with a name: sentence and table say the rest
      for (const part of image.children) part.setAttribute("aria-hidden", "true");
      image.setAttribute("role", "img");
      image.setAttribute("aria-label", root.getAttribute("aria-label"));
      say();
      align();
      drawn.view.addResizeListener(() => requestAnimationFrame(align));
      if (stale) await update();
    }

    // Vega looks at its container when the window changes; a sidebar that folds away later counts too.
    // With changes on each other's heels it can take the outer width for the inner one, and stay
    // there until the width changes: then it gets one a pixel off, and the right one.
    let width = picture.clientWidth;
    let watch = 0;
    let left = 0;
    function refit() {
      if (!left--) clearInterval(watch);
      const image = picture.querySelector("svg");
      if (!image || Math.abs(image.getBoundingClientRect().width - picture.clientWidth) < 1) return;
      if (left === TRIES - 1) window.dispatchEvent(new Event("resize"));
      else drawn?.view.width(picture.clientWidth - (left % 2)).runAsync();
    }
    new ResizeObserver(() => {
      if (picture.clientWidth === width) return;
      width = picture.clientWidth;
      longest = 0;
      if (reading) reading.style.minHeight = "";
      clearInterval(watch);
      left = TRIES;
      watch = setInterval(refit, 100);
      refit();
    }).observe(picture);

    for (const control of controls) {
      const input = root.querySelector(`[name="${CSS.escape(control.name)}"]`);
      if (!input || !control.values.includes(control.value)) throw new Error(`the control ${control.name} is damaged`);
      const connect = control.kind === "slider" ? kvSliders.connect : connectChoice;
      values[control.name] = control.value;
      const moves = connect(control, input, (value) => {
        values[control.name] = value;
        update();
        tools();
      });
      const get = () => values[control.name];
      settings[control.name] = { values: control.values, initial: control.value, get, set: moves.set };
      if (control.axis) ruled.push({ ...control, ...moves, input });
    }
    if (ruled.length) align = kvRules.connect(picture, ruled, () => drawn?.view, values);

    /** The tables behind the picture, the large ones, and their rows under the present choices. */
    function data() {
      const all = Object.values(datasets);
      const most = Math.max(...all.map((table) => table.length));
      const choices = controls.filter((control) => control.kind === "choice").map((control) => control.name);
      return all
        .filter((table) => table.length > 3 || table.length === most)
        .map((table) => {
          const here = choices.filter((name) => name in table[0]);
          return { rows: table, shown: table.filter((row) => here.every((name) => row[name] === values[name])) };
        });
    }

    /** The picture as a file of its own, on the page's background. */
    async function svg() {
      const text = await drawn.view.toSVG();
      const paper = getComputedStyle(document.body).backgroundColor;
      return text.replace(/^<svg[^>]*>/, (head) => `${head}<rect width="100%" height="100%" fill="${paper}"/>`);
    }

    tools = kvTools(root, settings, data, svg, origin);
    return () => {
      busy(1);
      queue = queue.then(draw).catch(fail).finally(() => busy(-1));
    };
  }

  const waiting = new Map(); // element → its draw function, until it comes near the screen
  const onPage = []; // draw functions of the pictures that stand on the page

  function show(root) {
    const draw = waiting.get(root);
    if (!draw) return;
    waiting.delete(root);
    onPage.push(draw);
    draw();
  }

  const near = new IntersectionObserver(
    (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => show(entry.target)),
    { rootMargin: DRAW_AHEAD },
  );
  for (const root of document.querySelectorAll(".kv-chart")) {
    try {
      waiting.set(root, explorer(root));
    } catch (error) {
      complain(root, error); // the others are drawn all the same
      continue;
    }
    if (root.getBoundingClientRect().top < window.innerHeight) show(root); // the reader looks at it
    else near.observe(root);
  }
  // The rest is drawn while the reader reads: a page may be printed, or a link may lead further down.
  const idle = window.requestIdleCallback || ((act) => setTimeout(act, 200));
  function showOne() {
    const [root] = waiting.keys();
    if (!root) return;
    show(root);
    idle(showOne);
  }
  window.addEventListener("load", () => setTimeout(() => idle(showOne), REST));
  let colours = JSON.stringify(palette());
  new MutationObserver(() => {
    const before = colours;
    colours = JSON.stringify(palette());
    if (colours !== before) onPage.forEach((draw) => draw());
  }).observe(document.documentElement, { attributeFilter: ["data-theme"] });
})();
