// What is wrong with the page as it stands: text too faint, images and controls without a name.
() => {
  const numbers = (colour) => {
    const [r, g, b, a = 1] = colour.match(/[\d.]+/g).map(Number);
    return colour.startsWith("color(") ? [255 * r, 255 * g, 255 * b, a] : [r, g, b, a];
  };
  const over = ([r, g, b, a], [R, G, B]) =>
    [[r, R], [g, G], [b, B]].map(([x, X]) => a * x + (1 - a) * X);
  const background = (element) => {
    if (!element) return [255, 255, 255];
    const own = numbers(getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own.slice(0, 3) : over(own, background(element.parentElement));
  };
  const luminance = (colour) => {
    const [r, g, b] = colour.map((x) =>
      x / 255 <= 0.04045 ? x / 255 / 12.92 : ((x / 255 + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => {
    const [low, high] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };

  const wrong = new Set();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), element = walker.currentNode.parentElement;
    const box = element.getBoundingClientRect();
    const there = element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
    if (!text || !there || box.width < 2 || box.height < 2) continue;
    const style = getComputedStyle(element), size = parseFloat(style.fontSize);
    const ink = element.closest("svg") ? style.fill : style.color;
    if (!/\d/.test(ink)) continue;
    const behind = background(element);
    const found = ratio(over(numbers(ink), behind), behind);
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    if (found < (large ? 3 : 4.5))
      wrong.add(`contrast ${found.toFixed(2)}: ${text.slice(0, 40)} (${element.className})`);
  }
  for (const image of document.querySelectorAll("article img"))
    if (!image.alt) wrong.add(`no alternative text: ${image.src.slice(0, 80)}`);
  for (const one of document.querySelectorAll("article [role=slider], article select"))
    if (!one.ariaLabel && !one.labels?.length) wrong.add(`no name: ${one.outerHTML.slice(0, 120)}`);
  return [...wrong];
}
