// A guided tour: the page's list of stops, one at a time, in a panel at the foot of the screen.
// A stop's `data-go` is what a link to a setting holds: fig-curve:window=64. Classic script, no eval.
(function () {
  "use strict";

  const list = document.querySelector(".kv-tour");
  if (!list) return;
  const stops = Array.from(list.children);

  function made(name, properties, ...children) {
    const element = Object.assign(document.createElement(name), properties);
    element.append(...children);
    return element;
  }

  const text = made("p", {});
  text.setAttribute("aria-live", "polite");
  const back = made("button", { type: "button", textContent: "Back" });
  const next = made("button", { type: "button", textContent: "Next" });
  const close = made("button", { type: "button", textContent: "Close" });
  const panel = made("div", { className: "kv-tour-panel", hidden: true }, text, made("div", {}, back, next, close));
  panel.setAttribute("role", "dialog");
  panel.setAttribute("aria-label", "Two-minute tour");
  document.body.append(panel);
  const start = made("button", { type: "button", className: "kv-tour-start", textContent: "Take the two-minute tour" });
  list.before(start);
  let at = 0;

  function go(to) {
    at = Math.min(Math.max(to, 0), stops.length - 1);
    text.textContent = `${at + 1} of ${stops.length}. ${stops[at].textContent.trim()}`;
    back.disabled = at === 0;
    next.textContent = at === stops.length - 1 ? "Finish" : "Next";
    location.hash = stops[at].dataset.go;
    document.getElementById(stops[at].dataset.go.split(":")[0])?.scrollIntoView({ block: "start" });
  }

  function end() {
    panel.hidden = true;
    start.focus();
  }

  start.addEventListener("click", () => {
    panel.hidden = false;
    go(0);
    next.focus({ preventScroll: true });
  });
  back.addEventListener("click", () => {
    go(at - 1);
    if (at === 0) next.focus({ preventScroll: true });
  });
  next.addEventListener("click", () => (at === stops.length - 1 ? end() : go(at + 1)));
  close.addEventListener("click", end);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !panel.hidden) end();
  });
})();
