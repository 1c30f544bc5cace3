// @ts-check
/** Writing back: the difference first, then the files, then the receipt; and the way back. */

import { ApiError } from "./api.js";
import { openDialog } from "./dialogs.js";
import { h } from "./dom.js";
import { ask, button, counted } from "./review/dom.js";
import { fitCanvas, palette } from "./review/palette.js";
import { thumbsOf } from "./review/thumbs.js";

/** @typedef {import("./store.js").App} App */
/**
 * @typedef {object} Report
 * @property {boolean} dry_run
 * @property {{recording: string, accepted: number, rejected: number, to_accept: number[], to_reject: number[]}[]} recordings
 * @property {string[]} planned
 * @property {string[]} written
 * @property {Record<string, string>} backups
 * @property {Record<string, string>} stale
 * @property {string[]} notes
 * @property {string | null} curation
 * @property {string} text
 * @property {string | null} seen a name of the difference
 */

const SHOWN = 40; // files of one list that are named one by one
const PICTURES = 18;

export class Writer {
  /** @param {App} app */
  constructor(app) {
    this.app = app;
    this.thumbs = thumbsOf(app);
    /** @type {HTMLDialogElement | null} */
    this.dialog = null;
    /** @type {{canvas: HTMLCanvasElement, draw: () => void, positions: number[]}[]} */
    this.strips = [];
    /** The difference that is shown: only that is written. @type {string | null} */
    this.seen = null;
  }

  open() {
    this.strips = [];
    this.body = h("div", { class: "w-body" });
    this.exports = h("input", { type: "checkbox", id: "write-exports" });
    this.writeButton = button("Write", () => this.write(), { class: "main", id: "write-now", disabled: true });
    this.backButton = button("Put it back…", () => this.restore(false), { id: "write-restore", title: "The toolkit's files as they were before ActSort wrote them; labels stay" });
    this.doneButton = button("Close", () => this.dialog?.close(), { id: "write-close" });
    this.backButton.hidden = true;
    this.dialog = openDialog("write-dialog", "Write back to the toolkit's files", [this.body], [this.backButton, h("span", { class: "w-space" }), this.doneButton, this.writeButton]);
    this.dialog.addEventListener("close", () => this.thumbs.watch("write", null));
    this.plan();
  }

  /** @param {...(Node | string | null)} children */
  show(...children) {
    this.body?.replaceChildren(...children.filter((child) => child !== null).map((child) => /** @type {Node | string} */ (child)));
  }

  /** @param {string} text */
  wait(text) {
    this.show(h("p", { role: "status", class: "w-wait" }, text));
  }

  async plan() {
    this.wait("Comparing the decisions with the files…");
    const { app } = this;
    try {
      // Labels on their way belong to what is written.
      for (let i = 0; i < 30 && app.outbox.entries.length; i++) await new Promise((then) => setTimeout(then, 100));
      const [report, status] = await Promise.all([app.api.json("api/write"), app.api.json("api/status")]);
      this.showPlan(report, status);
    } catch (error) {
      this.fail(error, "Nothing was written.");
    }
  }

  /**
   * @param {Report} report
   * @param {{written: string[], written_at: string | null, changed_since_written: boolean}} status
   */
  showPlan(report, status) {
    const { app } = this;
    const unsent = app.outbox.entries.length;
    this.seen = report.seen;
    const change = report.recordings.reduce((sum, one) => sum + one.to_accept.length + one.to_reject.length, 0);
    const before = status.written.length
      ? `Last written ${when(status.written_at)}${status.changed_since_written ? "; labels changed since." : "; no label changed since."}`
      : "Never written from this session. The toolkit's files are as the toolkit left them.";
    this.show(
      unsent ? h("p", { class: "w-warn", role: "alert" }, `${counted(unsent, "label or other change", "labels and other changes")} could not be sent yet and will not be in what is written.`) : null,
      h("p", {}, change ? `${counted(change, "verdict")} of the toolkit would change. ` : "No verdict of the toolkit changes: its files say the same. ", h("span", { class: "rv-muted" }, before)),
      this.differences(report, true),
      this.files("Files that will be replaced (a backup of each is kept)", report.planned),
      this.staleFiles(report.stale, "Copies elsewhere that will then be out of date"),
      h("label", { class: "rv-check", for: "write-exports" }, /** @type {Node} */ (this.exports), "Also rewrite the copies of its verdicts that the toolkit exported (Fall.mat and the like)"),
      this.noteList(report.notes),
      h("details", { class: "w-more" }, h("summary", {}, "The same as text"), h("pre", { tabindex: 0 }, report.text)),
    );
    const { writeButton, backButton } = this;
    if (writeButton) {
      writeButton.hidden = false;
      writeButton.disabled = app.watch;
      writeButton.title = app.watch ? "You are watching: someone who labels can write" : "";
      writeButton.focus();
    }
    if (backButton) {
      backButton.hidden = !status.written.length;
      backButton.disabled = app.watch;
    }
  }

  /**
   * @param {Report} report
   * @param {boolean} pictures
   */
  differences(report, pictures) {
    const { app } = this;
    const starts = new Map(app.info.recordings.map(({ key, start }) => [key, start]));
    const places = (/** @type {string} */ key, /** @type {number[]} */ indices) => indices.map((i) => (starts.get(key) ?? 0) + i);
    const link = (/** @type {string} */ key, /** @type {number[]} */ indices, /** @type {string} */ what) => {
      if (!indices.length) return "0";
      const list = { name: `${what} in ${key}`, positions: places(key, indices) };
      return button(`Look at ${indices.length.toLocaleString("en")}`, () => this.look(list), { class: "rv-small", title: `Open these as a list: ${what} in ${key}` });
    };
    const rows = report.recordings.map((one) =>
      h(
        "tr",
        {},
        h("th", { scope: "row" }, one.recording),
        h("td", {}, one.accepted.toLocaleString("en")),
        h("td", {}, one.rejected.toLocaleString("en")),
        h("td", {}, link(one.recording, one.to_accept, "newly accepted")),
        h("td", {}, link(one.recording, one.to_reject, "newly rejected")),
      ),
    );
    const head = ["Recording", "accepted", "rejected", "newly accepted", "newly rejected"].map((text) => h("th", { scope: "col" }, text));
    const table = h("table", { class: "w-table" }, h("caption", { class: "rv-unseen" }, "Difference against the toolkit's verdicts"), h("thead", {}, h("tr", {}, ...head)), h("tbody", {}, ...rows));
    if (!pictures) return table;
    const all = (/** @type {"to_accept" | "to_reject"} */ which) => report.recordings.flatMap((one) => places(one.recording, one[which]));
    return h("div", { class: "w-diff" }, table, this.strip("Newly accepted", all("to_accept"), "cell"), this.strip("Newly rejected", all("to_reject"), "notCell"));
  }

  /**
   * @param {string} title
   * @param {number[]} positions
   * @param {"cell" | "notCell"} kind
   */
  strip(title, positions, kind) {
    if (!positions.length) return h("span", { hidden: true });
    const first = positions.slice(0, PICTURES);
    const canvas = h("canvas", { class: "w-strip", role: "img", "aria-label": `${title}: pictures of some` });
    const draw = () => {
      const [width, height] = [canvas.clientWidth, canvas.clientHeight];
      if (!width) return;
      const colours = palette();
      const context = fitCanvas(canvas, width, height);
      context.clearRect(0, 0, width, height);
      first.forEach((pos, k) => {
        const x = k * (height + 4);
        if (x + height > width) return;
        const thumb = this.thumbs.get(pos);
        context.fillStyle = colours.line;
        context.fillRect(x, 0, height, height);
        if (thumb) context.drawImage(thumb.atlas, thumb.x, thumb.y, thumb.size, thumb.size, x, 0, height, height);
        context.strokeStyle = colours[kind];
        context.lineWidth = 2;
        context.setLineDash(kind === "notCell" ? [4, 3] : []);
        context.strokeRect(x + 1, 1, height - 2, height - 2);
      });
    };
    this.strips.push({ canvas, draw, positions: first });
    new ResizeObserver(draw).observe(canvas);
    this.thumbs.watch("write", () => this.strips.forEach((one) => one.draw()));
    this.thumbs.want("write", this.strips.flatMap((one) => one.positions));
    return h("figure", { class: "w-figure" }, h("figcaption", { class: "rv-muted" }, `${title}: ${positions.length.toLocaleString("en")}${positions.length > 12 ? ", some of them" : ""}`), canvas);
  }

  /** @param {{name: string, positions: number[]}} list */
  look(list) {
    this.dialog?.close();
    this.app.goto(list.positions[0], list);
  }

  /**
   * @param {string} title
   * @param {string[]} paths
   * @param {Record<string, string>} [beside]
   */
  files(title, paths, beside = {}) {
    if (!paths.length) return null;
    const items = paths.slice(0, SHOWN).map((path) => h("li", {}, h("code", {}, path), beside[path] ? h("div", { class: "rv-muted" }, "before: ", h("code", {}, beside[path])) : null));
    if (paths.length > SHOWN) items.push(h("li", {}, `and ${(paths.length - SHOWN).toLocaleString("en")} more`));
    return h("section", {}, h("h3", {}, title), h("ul", { class: "w-files" }, ...items));
  }

  /**
   * @param {Record<string, string>} stale
   * @param {string} title
   */
  staleFiles(stale, title) {
    const rows = Object.entries(stale);
    if (!rows.length) return null;
    return h("section", { class: "w-stale" }, h("h3", {}, title), h("ul", { class: "w-files" }, ...rows.map(([path, remedy]) => h("li", {}, h("code", {}, path), h("div", { class: "rv-muted" }, remedy)))));
  }

  /** @param {string[]} notes */
  noteList(notes) {
    return notes.length ? h("ul", { class: "q-notes" }, ...notes.map((note) => h("li", {}, note))) : null;
  }

  async write() {
    const { app } = this;
    const update = Boolean(this.exports?.checked);
    if (this.writeButton) this.writeButton.disabled = true;
    if (this.backButton) this.backButton.disabled = true;
    this.wait("Writing: each file is backed up, replaced, read again and compared…");
    try {
      /** @type {Report} */
      const report = await app.api.post("api/write", { annotator: app.annotator, update_exports: update, seen: this.seen });
      this.show(
        h("p", { class: "w-done", role: "status" }, report.written.length ? `Written and checked: ${counted(report.written.length, "file")}.` : "The toolkit's files said the same already; nothing was replaced."),
        this.files("Files that were replaced", report.written, report.backups),
        this.differences(report, false),
        report.curation ? this.files("All decisions, with who made them and how sure the model is", [report.curation]) : null,
        this.staleFiles(report.stale, "Now out of date"),
        this.noteList(report.notes),
      );
      if (this.writeButton) this.writeButton.hidden = true;
      if (this.backButton) {
        this.backButton.hidden = !report.written.length;
        this.backButton.disabled = false;
      }
      this.doneButton?.focus();
    } catch (error) {
      this.fail(error, "The files are as they were before.");
    }
  }

  /** @param {boolean} force also what others changed since */
  async restore(force) {
    const { app } = this;
    const text = force
      ? "Files that were changed after ActSort wrote them are replaced, too. They are backed up first."
      : "The toolkit's files become what they were before ActSort wrote them. Labels stay in the session.";
    if (!(await ask({ title: "Put the toolkit's files back?", text, yes: "Put back" }))) return;
    this.wait("Putting the files back…");
    try {
      const { restored } = await app.api.post("api/restore", { annotator: app.annotator, force });
      this.show(h("p", { class: "w-done", role: "status" }, restored.length ? `Put back: ${counted(restored.length, "file")}. Labels stay in the session.` : "There was nothing to put back."), this.files("As they were before", restored));
      if (this.writeButton) this.writeButton.hidden = true;
      if (this.backButton) this.backButton.hidden = true;
      this.doneButton?.focus();
    } catch (error) {
      this.fail(error, "Nothing was put back.", !force && error instanceof ApiError && error.status !== 0);
    }
  }

  /**
   * @param {unknown} error
   * @param {string} state what that means for the files
   * @param {boolean} [insist] offer to replace changed files, too
   */
  fail(error, state, insist = false) {
    if (!(error instanceof ApiError)) throw error;
    const answered = error.status !== 0;
    this.show(
      h("div", { class: "w-error", role: "alert" }, h("p", {}, h("strong", {}, error.what)), error.hint ? h("p", {}, error.hint) : null, answered && !error.hint.includes(state) ? h("p", {}, state) : null),
      h("div", { class: "rv-row" }, button("Compare again", () => this.plan(), { id: "write-again" }), insist ? button("Put back anyway…", () => this.restore(true), { id: "write-force" }) : null),
    );
    if (this.writeButton) this.writeButton.hidden = true;
    if (this.backButton) this.backButton.hidden = true;
  }
}

/** @param {string | null} time */
function when(time) {
  const date = time ? new Date(time) : null;
  return date && !Number.isNaN(date.getTime()) ? date.toLocaleString("en", { dateStyle: "medium", timeStyle: "short" }) : "before";
}

/**
 * @param {App} app
 * @returns {{open: () => void}}
 */
export function mountWrite(app) {
  const writer = new Writer(app);
  return { open: () => writer.open() };
}
