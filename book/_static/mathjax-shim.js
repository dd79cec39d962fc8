// html-manager still calls MathJax 2's queue; MathJax 3 typesets by itself.
(function () {
  const settings = window.MathJax || {};
  settings.Hub = settings.Hub || { Queue() {}, Config() {}, Configured() {} };
  window.MathJax = settings;
  document.addEventListener("DOMContentLoaded", function () {
    if (window.MathJax && !window.MathJax.Hub) window.MathJax.Hub = settings.Hub;
  });
  window.addEventListener("load", function () {
    if (window.MathJax && !window.MathJax.Hub) window.MathJax.Hub = settings.Hub;
  });
})();
