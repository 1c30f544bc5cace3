// @ts-check
/** From key presses to actions: the table comes from the server, own bindings from the settings. */

import { h } from "./dom.js";

/** @typedef {import("./store.js").App} App */
/** @typedef {import("./types.js").KeyInfo} KeyInfo */

/** @type {Record<string, string>} */
const SHOWN = { " ": "space", arrowup: "↑", arrowdown: "↓", arrowleft: "←", arrowright: "→", pagedown: "page down", pageup: "page up", escape: "esc" };

/** One spelling for each combination: `ctrl+shift+z`, `arrowup`, `?`. @param {string} combination as in the table */
export function canonical(combination) {
  const last = combination.endsWith("+") ? "+" : (combination.split("+").pop() ?? "");
  const before = combination.slice(0, combination.length - last.length).toLowerCase();
  // "shift+?" is "?": what shift makes of a key that is no letter depends on the keyboard.
  const shift = before.includes("shift+") && (last.length > 1 || last.toLowerCase() !== last.toUpperCase());
  return (before.includes("ctrl+") ? "ctrl+" : "") + (before.includes("alt+") ? "alt+" : "") + (shift ? "shift+" : "") + last.toLowerCase();
}

/** @param {KeyboardEvent} event */
export function combinationOf(event) {
  const parts = [];
  if (event.ctrlKey || event.metaKey) parts.push("ctrl");
  if (event.altKey && event.key.length > 1) parts.push("alt"); // with a character alt may be what types it
  // Caps lock makes "Y" of "y": only the shift key itself counts.
  if (event.shiftKey) parts.push("shift");
  return canonical([...parts, event.key].join("+"));
}

/** As people read it. @param {string} combination */
export function shown(combination) {
  const whole = canonical(combination);
  const last = whole.endsWith("+") ? "+" : (whole.split("+").pop() ?? "");
  return whole.slice(0, whole.length - last.length) + (SHOWN[last] ?? last);
}

/** The keys of an action under the chosen layout and own bindings. @param {App} app @param {KeyInfo} key @returns {string[]} */
export function keysOf(app, key) {
  const own = app.settings.keys[key.action];
  if (own) return own;
  if (app.settings.layout === "right") return key.keys;
  return app.settings.layout === "left" ? [...key.left, ...key.keys] : [...key.keys, ...key.left];
}

export class Keys {
  /** @param {App} app */
  constructor(app) {
    this.app = app;
    /** @type {Map<string, string>} */
    this.bound = new Map();
    this.bind();
    app.addEventListener("settings", () => this.bind());
    document.addEventListener("keydown", (event) => this.press(event));
  }

  /** Own bindings win over the table's. */
  bind() {
    this.bound.clear();
    const own = this.app.settings.keys;
    const ordered = [...this.app.info.keys].sort((a, b) => Number(a.action in own) - Number(b.action in own));
    for (const key of ordered) {
      for (const combination of keysOf(this.app, key)) {
        const one = canonical(combination);
        if (!this.bound.has(one) || key.action in own) this.bound.set(one, key.action);
      }
    }
  }

  /** @param {KeyboardEvent} event */
  press(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.defaultPrevented || event.isComposing) return;
    const open = document.querySelector("dialog[open]");
    const action = this.bound.get(combinationOf(event));
    if (!action) return;
    if (open) return; // a dialog has the keys; it closes by itself at escape
    if (action === "escape" && document.querySelector(":popover-open")) return; // so does a menu
    if (target.matches?.("textarea, select, [contenteditable], input:not([type=range]):not([type=checkbox]):not([type=radio])")) return;
    const moves = /^(Arrow|Page|Home|End)/.test(event.key);
    if (moves && (target.matches?.("input[type=range], input[type=radio], [role=slider]") || target.closest?.("[data-own-arrows]"))) return;
    if ((event.key === "Enter" || event.key === " ") && target.matches?.("button, a[href], summary, input, [role=button], [role=tab], [role=gridcell], [role=row], [role=option], [data-own-enter]")) {
      if (event.repeat && target.closest?.("[data-action], [data-change]")) event.preventDefault(); // a key held down on a button presses it once
      return;
    }
    if (event.repeat && !/zoom|faster|slower|event|list|back/.test(action)) {
      event.preventDefault();
      return; // a key held down decides once: the next candidate has not been looked at
    }
    event.preventDefault();
    run(this.app, action, event.timeStamp);
  }
}

/**
 * @param {App} app
 * @param {string} action
 * @param {number} [time] of the key press
 */
export function run(app, action, time = 0) {
  const deed = app.viewActions[app.view].get(action) ?? app.actions.get(action);
  if (!deed) return;
  app.keyTime = time;
  deed();
  app.keyTime = 0;
  light(action);
}

/** The button of a key that was pressed lights up for a moment. @param {string} action */
function light(action) {
  requestAnimationFrame(() => {
    for (const button of document.querySelectorAll(`.decide [data-action="${action}"]`)) {
      button.classList.add("lit");
      setTimeout(() => button.classList.remove("lit"), 120);
    }
  });
}

/** @param {App} app @param {string} action @returns {KeyInfo | undefined} */
export function keyInfo(app, action) {
  return app.info.keys.find((key) => key.action === action);
}

/**
 * A button that does what a key does; its tooltip shows the key.
 * @param {App} app
 * @param {string} action
 * @param {{text?: string, class?: string, keys?: boolean, icon?: string}} [how]
 */
export function actionButton(app, action, how = {}) {
  const key = keyInfo(app, action);
  const text = how.text ?? key?.title ?? action;
  const button = h("button", { type: "button", "data-action": action, class: how.class ?? "" });
  const cap = h("kbd", { "aria-hidden": "true" });
  if (how.icon) button.append(h("span", { class: "icon", "aria-hidden": "true" }, how.icon));
  button.append(h("span", { class: how.icon && !how.text ? "sr" : "text" }, text));
  if (how.keys !== false) button.append(cap);
  const name = () => {
    const keys = key ? keysOf(app, key).map(shown) : [];
    button.title = `${key?.help ?? text}${keys.length ? ` (${keys.join(", ")})` : ""}`;
    cap.textContent = keys.slice(0, how.keys === undefined ? 1 : 2).join(" ");
  };
  name();
  app.addEventListener("settings", name);
  button.addEventListener("click", (event) => {
    run(app, action, event.timeStamp);
    // After a click with the mouse the keys are the page's again; with the keyboard the button keeps the focus.
    if (event.detail > 0) button.blur();
  });
  return button;
}
