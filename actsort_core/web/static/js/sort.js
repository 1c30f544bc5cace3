// @ts-check
/** The sort view: map, zoomed footprint, snippets, traces, facts, and the bar that decides. */

import { mountFacts } from "./candidate.js";
import { h, put } from "./dom.js";
import { mountCrop } from "./footprint.js";
import { actionButton, keyInfo } from "./keys.js";
import { Look } from "./look.js";
import { mountMap } from "./map.js";
import { mountPlayer } from "./player.js";
import { mountTrace } from "./trace.js";

/** @typedef {import("./store.js").App} App */

/** @param {HTMLElement} section @param {App} app */
export function mountSort(section, app) {
  const panel = (/** @type {string} */ name, /** @type {string} */ label) => h("section", { class: `panel ${name}`, "aria-label": label });
  const map = panel("map", "Field of view");
  const crop = panel("crop", "Footprint");
  const player = panel("player", "Movie snippets of its events");
  const trace = panel("traces", "Trace");
  const facts = panel("facts", "What is known of it");
  const bar = h("div", { class: "decide", role: "toolbar", "aria-label": "Decide" });
  section.append(map, crop, player, trace, facts, bar);

  const look = new Look();
  const parts = [mountMap(map, app), mountCrop(crop, app, look), mountPlayer(player, app, look), mountTrace(trace, app, look), mountFacts(facts, app)];
  mountBar(bar, app);

  const veil = h("div", { class: "veil", id: "veil", role: "status", hidden: true });
  section.append(veil);

  app.addEventListener("current", () => {
    look.reset();
    veil.hidden = true;
    for (const part of parts) part.show();
    measure(app);
  });
  app.addEventListener("waiting", () => {
    // Only after a moment: a flash between two candidates would be worse than a short wait.
    setTimeout(() => {
      veil.hidden = !app.waiting;
      put(veil, app.whyWaiting());
    }, 150);
  });
  app.addEventListener("view", () => {
    if (app.view === "sort") for (const part of parts) part.show();
  });
}

/** From the key to the frame that shows the next candidate. @param {App} app */
function measure(app) {
  const { keyTime, current } = app;
  if (!keyTime || !current) return;
  const { pos } = current;
  requestAnimationFrame(() => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => {
      window.__actsort.latencies.push({ pos, key: keyTime, painted: performance.now() });
      if (window.__actsort.latencies.length > 20000) window.__actsort.latencies.splice(0, 10000);
      channel.port1.close();
    };
    channel.port2.postMessage(0);
  });
}

/** @param {HTMLElement} bar @param {App} app */
function mountBar(bar, app) {
  const big = [
    actionButton(app, "cell", { class: "big cell", icon: "●", text: "Cell", keys: true }),
    actionButton(app, "not_cell", { class: "big not_cell", icon: "○", text: "Not a cell", keys: true }),
    actionButton(app, "unsure", { class: "big unsure", icon: "?", text: "Unsure", keys: true }),
  ];
  const own = app.info.classes.filter((c) => c.own).slice(0, 9);
  const classes = own.map((one, i) => actionButton(app, `class${i + 1}`, { class: `own ${one.kind}`, text: one.name }));
  const group = (/** @type {string} */ label, /** @type {HTMLElement[]} */ ...buttons) => h("div", { class: "group", role: "group", "aria-label": label }, ...buttons);
  const flag = actionButton(app, "flag", { text: "Flag" });
  const list = h("div", { class: "walk", id: "list", role: "group", "aria-label": "List", hidden: true });
  const listText = h("span", {});
  list.append(actionButton(app, "previous_list", { icon: "‹" }), listText, actionButton(app, "next_list", { icon: "›" }), h("button", { type: "button", "data-action": "escape", title: "Back to the questions (esc)", onclick: () => app.backToQuestions() }, "Questions"));
  const watching = h("p", { class: "watching", hidden: !app.watch }, "You are watching: labels are given by others. What they decide appears on the map.");
  const decide = h("div", { class: "group deciders", role: "group", "aria-label": "Decision" }, ...big, ...classes);
  decide.hidden = app.watch;
  const undo = group("Undo", actionButton(app, "undo"), actionButton(app, "redo"));
  const marks = group("Marks", actionButton(app, "note"), flag);
  undo.hidden = marks.hidden = app.watch;
  bar.append(decide, watching, undo, group("Move", actionButton(app, "back"), actionButton(app, "skip")), marks);
  document.getElementById("map-stage")?.append(list);

  const facts = () => {
    const { current, state } = app;
    flag.setAttribute("aria-pressed", String(Boolean(current && state.flagged[current.pos])));
    const label = current ? state.label[current.pos] : 0;
    const value = label ? app.info.classes[label - 1].name : "";
    for (const button of decide.querySelectorAll("button")) {
      const action = button.dataset.action ?? "";
      const is = action.startsWith("class") ? keyInfo(app, action)?.title === value : action === value;
      button.setAttribute("aria-pressed", String(is && value !== ""));
    }
    list.hidden = !app.list;
    if (app.list) put(listText, `${app.list.name}: ${app.list.at + 1} of ${app.list.positions.length}`, app.list.name);
  };
  for (const name of ["current", "facts", "list", "state"]) app.addEventListener(name, facts);
  facts();

  const { actions } = app;
  const value = (/** @type {string} */ name) => () => {
    if (app.view === "sort") app.decide(name);
    else if (app.selection.size) app.decideMany([...app.selection], name);
    else app.say("Nothing is selected. Select candidates first, then decide them together.", { kind: "info" });
  };
  actions.set("cell", value("cell"));
  actions.set("not_cell", value("not_cell"));
  actions.set("unsure", value("unsure"));
  own.forEach((one, i) => actions.set(`class${i + 1}`, value(one.name)));
  actions.set("undo", () => app.undo());
  actions.set("redo", () => app.redo());
  actions.set("back", () => app.back());
  actions.set("skip", () => app.skip());
  actions.set("flag", () => {
    if (app.current) app.flag(app.current.pos, !app.state.flagged[app.current.pos]);
  });
  actions.set("next_list", () => app.step(1));
  actions.set("previous_list", () => app.step(-1));
  actions.set("view_sort", () => app.setView("sort"));
  actions.set("view_review", () => app.setView("review"));
  actions.set("blind", () => {
    app.setBlind(!app.blind);
    app.say(app.blind ? "What the model and the toolkit think is hidden until you have decided." : "What the model and the toolkit think is shown.", { kind: "info" });
  });
  actions.set("select_toggle", () => {
    if (app.current) app.select([app.current.pos], "toggle");
  });
  actions.set("escape", () => {
    if (app.view === "review") app.setView("sort");
    else if (app.list) app.backToQuestions();
    else if (app.selection.size) app.select([], "set");
  });
}
