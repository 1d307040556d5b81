// Terms of the glossary say what they mean when pointed at or reached with Tab; Escape closes. No network, no eval.
(function () {
  "use strict";

  const terms = document.querySelectorAll("a[data-definition]");
  const tip = document.createElement("div");
  Object.assign(tip, { id: "kv-tip", className: "kv-tip", hidden: true });
  tip.setAttribute("role", "tooltip");
  document.body.append(tip);
  let shown = null;

  function hide() {
    shown?.removeAttribute("aria-describedby");
    shown = null;
    tip.hidden = true;
  }

  function show(term) {
    hide();
    shown = term;
    tip.textContent = term.dataset.definition;
    tip.hidden = false;
    term.setAttribute("aria-describedby", tip.id);
    const at = term.getClientRects()[0];
    const left = Math.min(at.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
    const above = at.top - tip.offsetHeight - 6;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${above > 60 ? above : at.bottom + 6}px`;
  }

  for (const term of terms) {
    term.addEventListener("pointerenter", () => show(term));
    term.addEventListener("pointerleave", hide);
    term.addEventListener("focus", () => show(term));
    term.addEventListener("blur", hide);
  }
  // Tab may scroll the page to the term it reaches: the tip goes along; a mouse has left the term.
  window.addEventListener("scroll", () => shown && (shown === document.activeElement ? show(shown) : hide()), { passive: true });
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
})();
