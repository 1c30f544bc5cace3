// @ts-check
/** Small helpers of the review view. */

import { openDialog } from "../dialogs.js";
import { h, rootSize } from "../dom.js";

/**
 * @param {string} text
 * @param {(event: MouseEvent) => void} onclick
 * @param {Record<string, any>} [attributes]
 */
export function button(text, onclick, attributes = {}) {
  return h("button", { type: "button", onclick, ...attributes }, text);
}

let counter = 0;

/** @param {string} stem */
export function newName(stem) {
  counter += 1;
  return `${stem}-${counter}`;
}

/**
 * A dialog that asks one question.
 * @param {{title: string, text: string, yes: string, no?: string}} words
 * @returns {Promise<boolean>}
 */
export function ask({ title, text, yes, no = "Cancel" }) {
  return new Promise((resolve) => {
    const dialog = openDialog("ask", title, [h("p", {}, text)], [
      button(no, () => dialog.close("no"), {}),
      button(yes, () => dialog.close("yes"), { class: "main", id: "ask-yes" }),
    ]);
    document.getElementById("ask-yes")?.focus();
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"));
  });
}

/**
 * @param {number} count
 * @param {string} one
 * @param {string} [many]
 */
export function counted(count, one, many = `${one}s`) {
  return `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
}

/**
 * Calls at most once in `wait` ms, at the end.
 * @param {() => void} then
 * @param {number} wait
 */
export function later(then, wait) {
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  return () => {
    if (timer !== undefined) return;
    timer = setTimeout(() => {
      timer = undefined;
      then();
    }, wait);
  };
}

/** What was laid out for a window of 1280 x 720 grows with the page's root size. */
export function unit() {
  return rootSize() / 13;
}

/**
 * After a click on a button or a choice in a list the next key belongs to the candidates again, not to what was clicked.
 * @param {HTMLElement} element
 */
export function giveKeysBack(element) {
  element.addEventListener("click", (event) => {
    const control = /** @type {HTMLElement} */ (event.target).closest("button, input[type=checkbox]");
    if (event.detail > 0 && control instanceof HTMLElement && !control.hasAttribute("popovertarget")) control.blur();
  });
  element.addEventListener("change", (event) => {
    if (event.target instanceof HTMLSelectElement) event.target.blur();
  });
}
