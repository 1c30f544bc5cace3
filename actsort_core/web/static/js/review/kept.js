// @ts-check
/** How the review view was left: kept in this browser. */

import { SORTS } from "./sorts.js";

/** @typedef {import("./review.js").Desk} Desk */

const KEY = "actsort:review";

/** @param {Desk} desk */
export function readKept(desk) {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) ?? "{}");
    if (["gallery", "table", "duplicates"].includes(kept.mode)) desk.mode = kept.mode;
    if (["small", "medium", "large"].includes(kept.size)) desk.size = kept.size;
    if (SORTS.some((sort) => sort.name === kept.sort)) desk.model.sort = kept.sort;
    const known = new Set(desk.app.info.features.map((feature) => feature.name));
    desk.features = (kept.features ?? []).filter((/** @type {string} */ name) => known.has(name));
    if (typeof kept.detailed === "boolean") desk.detailed = kept.detailed;
  } catch {
    // nothing kept: as at first
  }
}

/** @param {Desk} desk */
export function keepKept({ mode, size, features, detailed, model }) {
  try {
    localStorage.setItem(KEY, JSON.stringify({ mode, size, features, detailed, sort: model.openSort || model.sort }));
  } catch {
    // lasts as long as the page
  }
}
