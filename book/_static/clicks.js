// The theme's buttons, without inline handlers: a button says in data-click which of these it means.
(function () {
  "use strict";
  const actions = {
    "window.print()": () => window.print(),
    "toggleFullScreen()": () => window.toggleFullScreen(),
  };
  for (const button of document.querySelectorAll("[data-click]")) {
    button.addEventListener("click", actions[button.dataset.click]);
  }
})();
