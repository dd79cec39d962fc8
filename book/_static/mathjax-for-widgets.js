// The widget manager asks MathJax 2 to typeset what a widget shows; the book has MathJax 3.
window.MathJax = window.MathJax || {};
window.MathJax.Hub = {
  Config() {},
  Configured() {},
  Queue([task, , element]) {
    if (task === "Typeset" && window.MathJax.typesetPromise) {
      window.MathJax.typesetPromise([element]);
    }
  },
};
