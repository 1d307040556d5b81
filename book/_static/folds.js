// A link into a closed fold opens it; on paper every fold is open.
(function () {
  "use strict";

  /** Opens every fold around an element; says whether one was closed. */
  function open(element) {
    let closed = false;
    for (let at = element; at; at = at.parentElement) {
      if (at.matches("details:not([open])")) closed = at.open = true;
    }
    return closed;
  }

  /** The element that the address names, before an explorer's settings. */
  const target = () => document.getElementById(location.hash.slice(1).split(":")[0]);

  function follow() {
    const element = target();
    if (element && open(element.querySelector(":scope > details") || element)) element.scrollIntoView();
  }

  window.addEventListener("hashchange", follow);
  document.addEventListener("click", (event) => {
    if (event.target.closest("a[href*='#']")) setTimeout(follow); // the address may stay the same
  });
  window.addEventListener("beforeprint", () => document.querySelectorAll("details.kv-fold, details.kv-more").forEach(open));
  follow();
})();
