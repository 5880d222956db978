// Small helpers for the document. Text only ever goes in as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

/** An element with attributes (a function is a listener, null and false are left out) and children. */
export function el(name, attributes = {}, ...children) {
  return build(document.createElement(name), attributes, children);
}

/** The same for SVG. */
export function svg(name, attributes = {}, ...children) {
  return build(document.createElementNS(SVG, name), attributes, children);
}

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export function set(node, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
  }
}

export function icon(name) {
  return svg("svg", { class: "icon", "aria-hidden": "true" }, svg("use", { href: `#i-${name}` }));
}

/** Makes the children of `parent` those of `items`; nodes of keys that stay are kept, and so is their focus. */
export function keyed(parent, items, keyOf, create, update) {
  const old = new Map([...parent.children].map((node) => [node.dataset.key, node]));
  const keys = items.map((item) => String(keyOf(item)));
  const wanted = new Set(keys);
  for (const [key, node] of old) if (!wanted.has(key)) node.remove();
  let place = parent.firstChild;
  items.forEach((item, index) => {
    let node = old.get(keys[index]);
    if (!node) {
      node = create(item);
      node.dataset.key = keys[index];
    }
    if (node === place) place = place.nextSibling;
    else parent.insertBefore(node, place);
    update(node, item);
  });
}

/** Tells screen readers, politely and only the last of what comes fast. */
export function announce(text, delay = 50) {
  clearTimeout(announce.timer);
  announce.timer = setTimeout(() => {
    $("announcer").textContent = text;
  }, delay);
}

/** A line at the bottom for some seconds, with a button if there is something to do about it. */
export function toast(text, action = null) {
  const node = el("div", { class: "toast" }, el("p", {}, text));
  let timer = 0;
  const hold = () => clearTimeout(timer);
  const wait = () => {
    hold();
    timer = setTimeout(() => (node.matches(":hover, :focus-within") ? wait() : close()), action ? 12000 : 7000);
  };
  const close = () => {
    hold();
    node.remove();
  };
  for (const kind of ["pointerenter", "focusin"]) node.addEventListener(kind, hold);
  for (const kind of ["pointerleave", "focusout"]) node.addEventListener(kind, wait);
  if (action) {
    const act = () => {
      close();
      action.act();
    };
    node.append(el("button", { type: "button", class: "quiet", click: act }, action.label));
  }
  node.append(
    el(
      "button",
      { type: "button", class: "quiet square", "aria-label": "Close", title: "Close", click: close },
      icon("close"),
    ),
  );
  $("toasts").replaceChildren(node);
  wait();
}

export function clearToast() {
  $("toasts").replaceChildren();
}

/** Focuses a part that may be sticky: some browsers would scroll the page to where it would stand otherwise. */
export function focusInPlace(node) {
  node.focus({ preventScroll: true });
  const { top, bottom } = node.getBoundingClientRect();
  if (top < 0 || bottom > innerHeight) node.scrollIntoView({ block: "nearest" });
}

/** Whether the keyboard's focus is on a part of `node`, so that it must not be lost when that part goes. */
export const hasKeyFocus = (node) =>
  node.contains(document.activeElement) && document.activeElement.matches(":focus-visible");
