// Elements. Whatever comes from outside gets in as text only: nothing here, or elsewhere on the page, parses markup.
"use strict";

const dom = (() => {
  const svgNamespace = "http://www.w3.org/2000/svg";

  /** A new element with this class and these children; a string is text. */
  function make(tag, className, ...children) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    element.append(...children);
    return element;
  }

  /** A new SVG element with these attributes. */
  function svg(tag, attributes, ...children) {
    const element = document.createElementNS(svgNamespace, tag);
    set(element, attributes);
    element.append(...children);
    return element;
  }

  /** Sets attributes that have changed. */
  function set(element, attributes) {
    for (const [name, value] of Object.entries(attributes ?? {})) {
      if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
    }
  }

  /** Sets the text, if it has changed. */
  function text(element, value) {
    if (element.textContent !== value) element.textContent = value;
  }

  function show(element, isShown) {
    if (element.hidden === isShown) element.hidden = !isShown;
  }

  /**
   * Keeps one child of `parent` for each item: a child stays the same as long as its item has the same key, so that
   * nothing flickers and what is selected stays so. `build` makes a child, and `fill` shows an item in it. Items of one
   * key, such as long names that are cut, are told apart by their order.
   */
  function list(parent, items, key, build, fill) {
    const before = new Map([...parent.children].map((child) => [child.dataset.key, child]));
    const times = new Map();
    items.forEach((item, place) => {
      const of = String(key(item));
      const time = (times.get(of) ?? 0) + 1;
      times.set(of, time);
      const name = `${time} ${of}`;
      let child = before.get(name);
      if (child) {
        before.delete(name);
      } else {
        child = build(item);
        child.dataset.key = name;
      }
      fill(child, item);
      if (parent.children[place] !== child) parent.insertBefore(child, parent.children[place] ?? null);
    });
    for (const child of before.values()) child.remove();
  }

  /** A bar that is filled from the left by parts of `all`, each with a class. */
  function bar(element, parts, all) {
    list(element, parts, (part) => part.of, () => make("i"), (child, part) => {
      child.className = part.of;
      const width = `${all > 0 ? Math.min(100, (part.value / all) * 100).toFixed(2) : 0}%`;
      if (child.style.width !== width) child.style.width = width;
    });
  }

  return { make, svg, set, text, show, list, bar };
})();
