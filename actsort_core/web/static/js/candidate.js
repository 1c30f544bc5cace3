// @ts-check
/** What is known of the candidate: opinions, why it is asked, the toolkit's metrics, who overlaps it, notes, and the last ten labels. */

import { number, two } from "./curve.js";
import { h, put } from "./dom.js";
import { LETTERS, neighbourColour } from "./look.js";

/** @typedef {import("./store.js").App} App */
/** @typedef {import("./types.js").Candidate} Candidate */
/** @typedef {import("./types.js").Question} Question */

const LAST = 10;

/** @param {HTMLElement} panel @param {App} app */
export function mountFacts(panel, app) {
  const name = h("strong", { id: "fact-name" });
  const flagged = h("span", { class: "flagged", title: "Flagged" });
  const where = h("span", { class: "where", id: "fact-where" });
  const [toolkit, model, decision] = ["prior", "model", "decision"].map((id) => h("dd", { id: `fact-${id}` }));
  const why = h("p", { class: "why", id: "why" });
  const metrics = h("div", { class: "metrics", id: "metrics", tabindex: 0, role: "group", "aria-label": "The toolkit's metrics" });
  const metricsTitle = h("h3", {});
  const near = h("div", { class: "near", id: "near" });
  const notes = h("div", { class: "notes", id: "notes", tabindex: 0, role: "group", "aria-label": "Notes" });
  const past = h("div", { class: "past", id: "past" });
  panel.append(
    h("div", { class: "title" }, name, flagged, where),
    h("dl", { class: "opinions" }, h("dt", {}, "Label"), decision, h("dt", {}, "Toolkit"), toolkit, h("dt", {}, "Model"), model),
    why,
    metricsTitle,
    metrics,
    h("h3", {}, "Overlapping and near candidates"),
    near,
    h("h3", {}, "Notes"),
    notes,
    h("h3", {}, "Your last labels"),
    past,
  );

  const rows = Array.from({ length: 32 }, () => {
    const label = h("span");
    const value = h("span");
    const meter = h("meter", { min: 0, max: 100 });
    const row = h("div", { class: "metric", hidden: true }, label, value, meter);
    metrics.append(row);
    return { row, label, value, meter };
  });
  const chips = Array.from(LETTERS, (letter, i) => {
    const dot = h("b", {}, letter);
    const text = h("span");
    const button = h("button", { type: "button", hidden: true }, dot, text);
    button.addEventListener("click", (event) => {
      const pos = app.current?.neighbours[i]?.pos;
      if (pos !== undefined) app.goto(pos);
      if (event.detail > 0) button.blur();
    });
    near.append(button);
    return { button, dot, text };
  });
  const lines = Array.from({ length: LAST }, (_, i) => pastRow(app, i));
  past.append(...lines.map((line) => line.row));

  function facts() {
    const { current, question } = app;
    if (!current) return;
    const recording = app.info.recordings[current.recording];
    put(name, `Candidate ${current.index}`, `Position ${current.pos} of the session; fingerprint ${current.fingerprint}`);
    put(flagged, app.state.flagged[current.pos] ? "⚑" : "");
    put(where, `${app.info.recordings.length > 1 ? `${recording.key}, ` : ""}of ${recording.n_cells.toLocaleString("en")}`, recording.key);
    opinions(current);
    const reason = reasonText(app, question);
    put(why, reason, reason);
    const concealed = app.blind && !app.state.label[current.pos];
    put(metricsTitle, !current.metrics.length ? "The toolkit gives no metrics" : concealed ? "Toolkit's metrics: hidden until you decide" : "Toolkit's metrics (bar: percentile)");
    rows.forEach(({ row, label, value, meter }, i) => {
      const metric = concealed ? undefined : current.metrics[i];
      row.hidden = !metric;
      if (!metric) return;
      put(label, metric[0], `${metric[0]}: ${metric[1]}, higher than ${metric[2] === null ? "?" : Math.round(metric[2])} % of the candidates`);
      put(value, number(metric[1]));
      meter.value = metric[2] ?? 0;
      meter.setAttribute("aria-label", `${metric[0]}, percentile`);
    });
    chips.forEach(({ button, dot, text }, i) => {
      const one = current.neighbours[i];
      button.hidden = !one;
      if (!one) return;
      dot.style.color = neighbourColour(i, false);
      const r = one.correlation === null ? "" : ` r ${two(one.correlation)}`;
      put(text, one.overlap > 0 ? `${Math.max(1, Math.round(100 * one.overlap))} %` : "near");
      button.title = `Candidate ${one.pos - recording.start}: ${one.overlap > 0 ? `overlap ${(100 * one.overlap).toFixed(0)} % (cosine of the footprints)` : "close, without overlap"}, correlation of the traces${r || " unknown"}. Click to look at it.`;
    });
    notes.replaceChildren(...current.notes.map((n) => h("div", {}, h("strong", {}, n.annotator), `: ${n.text}`)));
  }

  /** @param {Candidate} current */
  function opinions(current) {
    const { state, info } = app;
    const { pos, prior } = current;
    const label = state.label[pos];
    const who = state.who[pos] ? state.annotators[state.who[pos] - 1] : "";
    const said = label ? info.classes[label - 1] : null;
    put(decision, said ? `${app.className(said.name)}${who && who !== app.annotator ? ` (${who})` : ""}` : "not yet");
    decision.className = said ? (said.own ? said.kind : said.name) : "";
    if (app.blind && !label) {
      put(toolkit, "hidden until you decide");
      put(model, "hidden until you decide");
      toolkit.className = model.className = "quiet";
      return;
    }
    const sure = prior.probability === null ? "" : ` (${prior.probability.toFixed(2)})`;
    const verdict = prior.verdict ?? 0;
    put(toolkit, verdict > 0 ? `cell${sure}` : verdict < 0 ? `not a cell${sure}` : "no verdict");
    toolkit.className = verdict > 0 ? "cell" : verdict < 0 ? "not_cell" : "quiet";
    const p = state.probability[pos];
    if (Number.isNaN(p)) {
      put(model, "none yet");
      model.className = "quiet";
    } else {
      const threshold = state.thresholds[current.recording] ?? 0.5;
      put(model, `${p >= threshold ? "cell" : "not a cell"}, p = ${p.toFixed(2)} (cut at ${threshold.toFixed(2)})`);
      model.className = p >= threshold ? "cell" : "not_cell";
    }
  }

  function history() {
    lines.forEach((line) => line.show());
  }

  app.addEventListener("history", () => setTimeout(history));
  for (const event of ["facts", "state", "settings"]) {
    app.addEventListener(event, () => {
      if (app.view === "sort") facts();
    });
  }
  history();
  return { show: facts };
}

/** @param {App} app @param {number} i */
function pastRow(app, i) {
  const value = h("span", { class: "value" });
  const what = h("small", { class: "quiet" });
  const go = h("button", { type: "button", class: "go" }, value, what);
  const edit = [
    ["cell", "●", "Make it a cell"],
    ["not_cell", "○", "Make it not a cell"],
    ["unsure", "?", "Make it unsure"],
  ].map(([name, mark, title]) => {
    const button = h("button", { type: "button", class: name, title, "data-change": name }, mark);
    button.addEventListener("click", (event) => {
      const one = app.history[i];
      if (one && one.value !== name) app.decideMany([one.pos], name);
      if (event.detail > 0) button.blur();
    });
    return button;
  });
  const row = h("div", { class: "row" }, go, h("span", { class: "edit", hidden: app.watch }, ...edit));
  go.addEventListener("click", (event) => {
    const one = app.history[i];
    if (one) app.goto(one.pos);
    if (event.detail > 0) go.blur();
  });
  return {
    row,
    show() {
      const one = app.history[i];
      row.style.visibility = one ? "visible" : "hidden";
      if (!one) return;
      const recording = app.info.recordings.findLast((r) => r.start <= one.pos);
      const index = one.pos - (recording?.start ?? 0);
      put(value, app.className(one.value));
      value.className = `value ${one.value}`;
      const seconds = one.seconds === null || one.seconds === undefined ? "" : ` · ${one.seconds.toFixed(1)} s`;
      put(what, `${index}${app.info.recordings.length > 1 ? ` (${recording?.key})` : ""}${seconds}`);
      go.title = `Candidate ${index}: look at it again`;
      edit.forEach((button) => {
        button.setAttribute("aria-pressed", String(button.dataset.change === one.value));
        button.setAttribute("aria-label", `${button.title}: candidate ${index}`);
      });
    },
  };
}

/** @type {Record<string, string>} */
const STRATEGIES = {
  random: "It was drawn at random.",
  linear: "It is the next in the file.",
  first_to_last: "It is the next in the file.",
  cal: "The model is least sure of it.",
  dal: "It is unlike those labelled so far.",
  dcal: "The model is unsure of it, and it is unlike those labelled so far.",
  nearest_pi: "It lies where the decisions are cut: your answer moves the line most.",
  balanced_pi: "It lies where the decisions are cut: your answer moves the line most.",
};

/** Why it is asked, in plain words. @param {App} app @param {Question | null} question */
export function reasonText(app, question) {
  if (!question) return app.list ? `You are going through “${app.list.name}”.` : "You chose it yourself.";
  const blind = app.blind && app.current && !app.state.label[app.current.pos];
  switch (question.reason) {
    case "start":
      return "Drawn at random: the model needs a few cells and a few others to begin with.";
    case "audit":
      return "A check: drawn at random, so that the quality can be estimated honestly.";
    case "again":
      return "Asked again: how far you agree with yourself shows how sure labels are.";
    case "overlap":
      return "Another person has labelled it: your answer shows how far you agree.";
    case "review":
      return "Asked for review.";
    default:
      if (blind) return "It is asked because it teaches the model most.";
      return STRATEGIES[question.strategy] ?? STRATEGIES[question.reason] ?? `The strategy ${question.strategy || question.reason} asks for it.`;
  }
}
