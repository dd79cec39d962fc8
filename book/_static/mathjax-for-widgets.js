// The widget manager asks MathJax 2 to typeset what a widget shows; the book has MathJax 3, which
// replaces window.MathJax as it loads: whatever object stands there gets the old entry point.
(function () {
  const hub = {
    Config() {},
    Configured() {},
    Queue([task, , element]) {
      if (task === "Typeset" && window.MathJax.typesetPromise) {
        window.MathJax.typesetPromise([element]);
      }
    },
  };
  let current;
  const withHub = (object) => Object.assign(object, { Hub: hub });
  if (window.MathJax) current = withHub(window.MathJax);
  Object.defineProperty(window, "MathJax", {
    get: () => current,
    set: (object) => { current = withHub(object); },
  });
})();
