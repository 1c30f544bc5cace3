// @ts-check
/** What stands round the map: what is shown, how, and what the colours mean. */

import { COLOURINGS } from "./store.js";
import { choice, h, put, slider, toggle } from "./dom.js";
import { actionButton } from "./keys.js";
import { CONTRASTS, preferred } from "./image.js";

/** @typedef {import("./store.js").App} App */
/** @typedef {import("./map.js").MapView} MapView */

/** @type {Record<string, string>} */
const COLOURING_NAMES = { decision: "decision", confidence: "confidence", origin: "who decided", label: "person's label", prior: "toolkit's verdict" };

/** @param {App} app @param {MapView} map */
export function mapTools(app, map) {
  const { settings } = app;
  const images = h("select", { "aria-label": "Image", title: "Image of the field of view", id: "map-image" });
  images.addEventListener("change", () => {
    app.set({ image: images.value });
    images.blur();
  });
  const recordings = h("select", { "aria-label": "Recording", title: "Recording on the map", id: "map-recording", hidden: app.info.recordings.length < 2 });
  for (const [i, one] of app.info.recordings.entries()) recordings.append(h("option", { value: i }, one.key));
  recordings.addEventListener("change", () => {
    map.load(Number(recordings.value));
    recordings.blur();
  });

  const features = app.info.features.map((f) => /** @type {[string, string]} */ ([`feature:${f.name}`, f.name]));
  const colours = choice("Colours", [...Object.entries(COLOURING_NAMES), ...features], "decision", (value) => {
    const [kind, ...rest] = value.split(":");
    app.setColouring({ kind: /** @type {"decision"} */ (kind), ...(rest.length ? { feature: rest.join(":") } : {}) });
  }, { id: "colouring" });
  colours.title = "What the colours of the footprints show (v: the next)";
  colours.dataset.action = "colouring";

  const outlines = toggle("Outlines", "Outlines of the footprints (o)", settings.outlines, (on) => app.set({ outlines: on }), { "data-action": "hide_outlines" });
  const hideCells = toggle("Cells", "Show or hide the cells", !settings.hideCells, (on) => app.set({ hideCells: !on }), { id: "show-cells" });
  const hideNots = toggle("Others", "Show or hide what is not a cell", !settings.hideNots, (on) => app.set({ hideNots: !on }), { id: "show-nots" });
  const follow = toggle("Follow", "Keep the candidate that is shown in sight", settings.follow, (on) => {
    app.set({ follow: on });
    if (on) map.follow();
  }, { id: "follow" });
  const whole = h("button", { type: "button", id: "map-whole", title: "The whole field of view", "aria-label": "The whole field of view", onclick: (/** @type {MouseEvent} */ event) => {
    map.whole();
    if (event.detail > 0) /** @type {HTMLElement} */ (event.currentTarget).blur();
  } }, "⤢");
  for (const button of [outlines, hideCells, hideNots, follow]) {
    button.addEventListener("click", (event) => event.detail > 0 && button.blur());
  }

  const dark = slider("Black level", { min: -0.5, max: 0.95, step: 0.01, value: settings.dark, id: "dark", title: "Contrast: what is shown as black" }, (v) => app.set({ dark: v, bright: Math.max(settings.bright, v + 0.05) }));
  const bright = slider("White level", { min: 0.05, max: 2, step: 0.01, value: settings.bright, id: "bright", title: "Contrast: what is shown as white" }, (v) => app.set({ bright: v, dark: Math.min(settings.dark, v - 0.05) }));
  const opacity = slider("Opacity of the colours", { min: 0, max: 1, step: 0.02, value: settings.opacity, id: "opacity" }, (v) => app.set({ opacity: v }));

  app.actions.set("contrast", () => {
    const now = CONTRASTS.findIndex(([, d, b]) => d === settings.dark && b === settings.bright);
    const [name, d, b] = CONTRASTS[(now + 1) % CONTRASTS.length];
    app.set({ dark: d, bright: b });
    app.say(`Contrast: ${name}.`, { kind: "info" });
  });
  app.actions.set("colouring", () => {
    const now = COLOURINGS.findIndex((c) => c.kind === app.colouring.kind);
    app.setColouring(COLOURINGS[(now + 1) % COLOURINGS.length]);
  });

  const legend = h("div", { class: "legend", id: "legend", "aria-label": "What the colours mean", role: "group" });
  const showLegend = () => fillLegend(legend, app);
  app.addEventListener("colouring", () => {
    colours.value = app.colouring.kind === "feature" ? `feature:${app.colouring.feature}` : app.colouring.kind;
    showLegend();
  });
  app.addEventListener("settings", () => {
    app.concealOptions(colours);
    outlines.setAttribute("aria-pressed", String(settings.outlines));
    dark.value = String(settings.dark);
    bright.value = String(settings.bright);
    showLegend();
  });
  app.addEventListener("map", () => {
    const info = app.info.recordings[map.recording];
    recordings.value = String(map.recording);
    images.replaceChildren(...info.images.map((name) => h("option", { value: name }, imageName(name))));
    images.value = preferred(info.images, settings.image);
    recordings.title = `Recording on the map: ${info.key}`;
    images.title = `Image of the field of view: ${imageName(images.value)}`;
  });
  app.concealOptions(colours);
  showLegend();

  const chosen = h("span", {});
  const deciders = ["cell", "not_cell", "unsure"].map((name) =>
    h("button", { type: "button", class: name, "data-many": name, title: `All that are selected: ${app.className(name)}`, onclick: () => {
      app.decideMany([...app.selection], name);
      app.select([], "set");
    } }, name === "not_cell" ? "Not a cell" : name === "cell" ? "Cell" : "Unsure"),
  );
  const selected = h("div", { class: "selected", id: "map-selected", hidden: true, role: "group", "aria-label": "Selected candidates" }, chosen, ...(app.watch ? [] : deciders),
    h("button", { type: "button", title: "Select none", onclick: () => app.select([], "set") }, "Clear"));
  app.addEventListener("selection", () => {
    selected.hidden = !app.selection.size;
    put(chosen, `${app.selection.size} selected`);
  });

  const icon = (/** @type {string} */ text, /** @type {string} */ title) => h("span", { class: "icon", "aria-hidden": "true", title }, text);
  const head = h("div", { class: "tools" }, h("h2", { class: "sr" }, "Field of view"), recordings, images, colours, h("span", { class: "grow" }), hideCells, hideNots, outlines,
    actionButton(app, "zoom_out", { icon: "−", keys: false }), actionButton(app, "zoom_in", { icon: "+", keys: false }), whole);
  const foot = h("div", { class: "tools foot" }, legend, h("span", { class: "grow" }), follow, actionButton(app, "contrast", { icon: "◐", keys: false }), dark, bright, icon("◍", "Opacity of the colours"), opacity);
  return { head, foot, selected };
}

/** @param {string} name as the toolkit calls it */
export function imageName(name) {
  const known = /** @type {Record<string, string>} */ ({ mean: "mean image", max: "maximum projection", correlation: "correlation image", footprints: "footprints" });
  return known[name] ?? name;
}

/** @param {HTMLElement} legend @param {App} app */
function fillLegend(legend, app) {
  const item = (/** @type {string} */ mark, /** @type {string} */ text) => h("span", { class: `key ${mark}` }, h("i", { "aria-hidden": "true" }), text);
  const { kind, feature } = app.colouring;
  const hidden = app.blind && (kind === "confidence" || kind === "prior" || app.conceals(feature ?? ""));
  /** @type {HTMLElement[]} */
  let items;
  if (hidden) items = [item("none", "hidden in blind mode until you have decided")];
  else if (kind === "decision") items = [item("k-cell", "cell"), item("k-not", "not a cell"), item("k-unsure", "unsure"), item("none", app.blind ? "not labelled" : "undecided")];
  else if (kind === "origin") items = [item("k-not full", "person"), item("k-cell", "model"), item("k-unsure full", "toolkit"), item("none", "nobody")];
  else if (kind === "label") items = [item("k-cell", "cell"), item("k-not", "not a cell"), item("k-unsure", "unsure"), ...(app.info.classes.some((c) => c.own) ? [item("own", "own class")] : []), item("none", "no label")];
  else if (kind === "prior") items = [item("k-cell", "cell"), item("k-not", "not a cell"), item("none", "no verdict")];
  else {
    const number = (/** @type {number} */ v) => Number(v.toPrecision(3)).toString();
    const [low, high] = kind === "confidence" ? ["undecided", "sure"] : app.featureNow ? [number(app.featureNow.low), number(app.featureNow.high)] : ["", ""];
    const unit = kind === "feature" ? app.info.features.find((f) => f.name === feature) : null;
    items = [h("span", {}, low), h("span", { class: "ramp", "aria-hidden": "true" }), h("span", { title: unit?.description ?? "" }, `${high}${unit?.unit ? ` ${unit.unit}` : ""}`)];
  }
  legend.replaceChildren(...items);
}
