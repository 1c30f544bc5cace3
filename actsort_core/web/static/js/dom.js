// @ts-check
/** Small helpers to build elements. */

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, any>} [attributes] `class`, `id`, `data-...`, `aria-...`, properties such as `value`; `onclick` and the like take functions
 * @param {...(Node | string | null | undefined)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled") /** @type {any} */ (element)[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children) if (child !== null && child !== undefined) element.append(child);
  return element;
}

/**
 * Sets a text only where it is another: no layout for nothing.
 * @param {Element} element
 * @param {string} text
 * @param {string} [title]
 */
export function put(element, text, title) {
  if (element.textContent !== text) element.textContent = text;
  if (title !== undefined && element.getAttribute("title") !== title) element.setAttribute("title", title);
}

/**
 * A drop-down with a label that is read aloud.
 * @param {string} label
 * @param {[string, string][]} options value and text
 * @param {string} value
 * @param {(value: string) => void} changed
 * @param {Record<string, string>} [attributes]
 */
export function choice(label, options, value, changed, attributes = {}) {
  const select = h("select", { "aria-label": label, title: label, ...attributes });
  for (const [v, text] of options) select.append(h("option", { value: v }, text));
  select.value = value;
  select.addEventListener("change", () => {
    changed(select.value);
    select.blur(); // so that the next key decides again instead of choosing
  });
  return select;
}

/**
 * @param {string} label
 * @param {{min: number, max: number, step: number, value: number, title?: string, id?: string}} range
 * @param {(value: number) => void} changed
 */
export function slider(label, range, changed) {
  const input = h("input", { type: "range", "aria-label": label, title: range.title ?? label, ...(range.id ? { id: range.id } : {}) });
  input.min = String(range.min);
  input.max = String(range.max);
  input.step = String(range.step);
  input.value = String(range.value);
  input.addEventListener("input", () => changed(Number(input.value)));
  input.addEventListener("pointerup", () => setTimeout(() => input.blur()));
  return input;
}

/**
 * A button that stays pressed.
 * @param {string} text
 * @param {string} title
 * @param {boolean} on
 * @param {(on: boolean) => void} changed
 * @param {Record<string, string>} [attributes]
 */
export function toggle(text, title, on, changed, attributes = {}) {
  const button = h("button", { type: "button", class: "toggle", title, "aria-pressed": String(on), ...attributes }, text);
  button.addEventListener("click", () => {
    const next = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(next));
    changed(next);
  });
  return button;
}

/** A canvas as large as its place, in device pixels; `draw` is called when that changes, never inside a key press. */
export class Stage {
  /**
   * @param {HTMLElement} parent
   * @param {string} label
   * @param {() => void} draw
   * @param {string} [className]
   */
  constructor(parent, label, draw, className = "") {
    this.canvas = h("canvas", { role: "img", "aria-label": label, class: className });
    parent.append(this.canvas);
    this.context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    this.width = 0; // CSS pixels
    this.height = 0;
    this.ratio = 1;
    this.draw = draw;
    new ResizeObserver(() => this.fit(parent)).observe(parent);
  }

  /** @param {HTMLElement} parent */
  fit(parent) {
    const ratio = window.devicePixelRatio || 1;
    const width = parent.clientWidth;
    const height = parent.clientHeight;
    if (width === this.width && height === this.height && ratio === this.ratio) return;
    this.width = width;
    this.height = height;
    this.ratio = ratio;
    this.canvas.width = Math.max(1, Math.round(width * ratio));
    this.canvas.height = Math.max(1, Math.round(height * ratio));
    this.draw();
  }

  /** Ready to draw in CSS pixels on an empty canvas. */
  clear() {
    const { context, ratio } = this;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    return context;
  }
}

/** The value of a colour variable of the theme, looked up once per theme. @type {Map<string, string>} */
const known = new Map();
let knownTheme = "";

/** @param {string} name */
export function variable(name) {
  const theme = document.documentElement.dataset.theme ?? "";
  if (theme !== knownTheme) {
    known.clear();
    knownTheme = theme;
  }
  let value = known.get(name);
  if (value === undefined) {
    value = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    known.set(name, value);
  }
  return value;
}

/** A font for canvases that grows with the page. @param {number} rem @param {string} [weight] */
export function font(rem, weight = "") {
  return `${weight} ${(rem * rootSize()).toFixed(1)}px system-ui, sans-serif`.trim();
}

let root = 0;
/** Pixels of one rem, looked up once per size of the window. */
export function rootSize() {
  if (!root) root = parseFloat(getComputedStyle(document.documentElement).fontSize) || 16;
  return root;
}
addEventListener("resize", () => {
  root = 0;
});

/** Width of a line that is `n` pixels wide in a small window: on a large screen lines grow with everything else. @param {number} n */
export function lineWidth(n) {
  return n * Math.max(1, rootSize() / 14);
}
