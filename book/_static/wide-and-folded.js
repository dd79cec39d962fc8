// What is wider than its place is marked as such, and reached by keyboard; on paper nothing is folded.
(function () {
  const wide = 'table, pre, div.cell_output, div.math, .pi-frame';
  const mark = ({ target }) => {
    target.removeAttribute("data-scrolls"); // the mark itself would change what is measured
    const scrolls = target.scrollWidth > target.clientWidth + 8 // a letter, of the padding
      && getComputedStyle(target).overflowX === "auto";
    target.toggleAttribute("data-scrolls", scrolls);
    if (scrolls) target.tabIndex = 0;
    else target.removeAttribute("tabindex");
  };
  const watched = new ResizeObserver((sizes) => sizes.forEach(mark));
  const watch = () => document.querySelectorAll(`article :is(${wide})`).forEach((target) => {
    watched.observe(target);
    mark({ target });
  });
  addEventListener("load", () => {
    const article = document.querySelector("article"); // the page of the search has none
    if (!article) return;
    watch();
    new MutationObserver(watch).observe(article, { childList: true, subtree: true });
  });

  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("article details:not([open])")];
    for (const fold of folded) fold.open = true;
  });
  addEventListener("afterprint", () => {
    for (const fold of folded) fold.open = false;
  });
})();
