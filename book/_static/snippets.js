// What the search says of a page: words of its article, not of the buttons and lists around it. Classic script, no eval.
(function () {
  "use strict";

  const NO_PROSE = "h1, script, style, pre, .headerlink, .kv-controls, .kv-tools, .kv-still, noscript";
  const BLOCKS = "p, li, dt, dd, th, td, h2, h3, h4, summary, figcaption"; // between their words is a space

  /** The text of an article, or of what an anchor in it names: of a term, its definition. */
  function prose(html, anchor) {
    const article = new DOMParser().parseFromString(html, "text/html").querySelector("article.bd-article");
    if (!article) return "";
    const named = anchor ? article.querySelector(anchor) : null;
    const shown = named?.closest("dt")?.nextElementSibling || named || article;
    for (const part of shown.querySelectorAll(NO_PROSE)) part.remove();
    for (const block of shown.querySelectorAll(BLOCKS)) block.append(" ");
    return shown.textContent.replace(/\s+/g, " ");
  }

  // A browser won't fetch pages from file://: titles must do there.
  if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
  document.addEventListener("DOMContentLoaded", () => {
    Search.htmlToText = prose;
  });
})();
