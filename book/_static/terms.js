// @ts-check
// Terms of the glossary say what they mean when pointed at, reached with Tab, or tapped; Escape closes. A second tap, or the
// link in the tip, leads to the glossary. No network, no eval.
(function () {
  "use strict";

  /** @type {NodeListOf<HTMLAnchorElement>} */
  const terms = document.querySelectorAll("a[data-definition]");
  const tip = document.createElement("div");
  Object.assign(tip, { id: "kv-tip", className: "kv-tip", hidden: true });
  tip.setAttribute("role", "tooltip");
  document.body.append(tip);
  /** @type {HTMLAnchorElement | null} */
  let shown = null;
  let tapped = false; // the tip stays until the next tap

  function hide() {
    shown?.removeAttribute("aria-describedby");
    shown = null;
    tapped = false;
    tip.hidden = true;
  }

  /** @param {HTMLAnchorElement} term @param {boolean} [tap] */
  function show(term, tap = false) {
    hide();
    shown = term;
    tapped = tap;
    tip.textContent = term.dataset.definition ?? "";
    if (tap) tip.append(Object.assign(document.createElement("a"), { href: term.href, textContent: "Read more" }));
    tip.hidden = false;
    term.setAttribute("aria-describedby", tip.id);
    const at = term.getClientRects()[0];
    const left = Math.min(at.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
    const above = at.top - tip.offsetHeight - 6;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${above > 60 ? above : at.bottom + 6}px`;
  }

  let touched = false; // whether the last press was a finger's or a pen's
  document.addEventListener("pointerdown", (event) => {
    touched = event.pointerType !== "mouse";
    const place = /** @type {Node} */ (event.target);
    if (tapped && !tip.contains(place) && !shown?.contains(place)) hide();
  });
  for (const term of terms) {
    term.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && show(term));
    term.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
    term.addEventListener("focus", () => touched || show(term));
    term.addEventListener("blur", () => tapped || hide());
    term.addEventListener("click", (event) => {
      if (!touched || (tapped && shown === term)) return; // a click leads on, and so does a second tap
      event.preventDefault();
      show(term, true);
    });
  }
  // Tab may scroll the page to the term it reaches: the tip goes along, and so it does under a tap; a mouse has left the term.
  const moved = () => shown && (tapped || shown === document.activeElement ? show(shown, tapped) : hide());
  window.addEventListener("scroll", moved, { passive: true });
  document.addEventListener("keydown", (event) => {
    touched = false;
    if (event.key === "Escape") hide();
  });
})();
