// @ts-check
/**
 * What was said and not yet acknowledged: kept in localStorage until the server has it, sent in order, one request at a time.
 *
 * Each tab has a box of its own. A box whose tab is gone is taken over by the next tab that opens this session: every entry has an
 * id, and the server does the same id once, so sending twice does no harm; losing would.
 */

import { ApiError } from "./api.js";

/** @typedef {import("./types.js").Entry} Entry */
/** @typedef {import("./types.js").Refused} Refused */

const BOX = "actsort:outbox:";
const LONGEST = 3000; // ms between two tries
const DEAD = 10000; // ms without a sign of life after which a tab's box may be taken over

/** Ids without `crypto.randomUUID`, which plain http to another machine does not have. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
}

/** The name of this tab: survives a reload, but a duplicated tab gets a new one (it copies sessionStorage, not the mark of leaving). */
export function clientName() {
  let name = null;
  try {
    name = sessionStorage.getItem("actsort:leaving");
    sessionStorage.removeItem("actsort:leaving");
  } catch {
    // no storage: a new name each time
  }
  const client = name ?? newId();
  addEventListener("pagehide", () => {
    try {
      sessionStorage.setItem("actsort:leaving", client);
    } catch {
      // as above
    }
  });
  return client;
}

export class Outbox extends EventTarget {
  /**
   * @param {{post: (path: string, body: object) => Promise<any>}} api
   * @param {{session: string, identity: string}} about the session, and which candidates it has in which order
   * @param {string} client
   */
  constructor(api, about, client) {
    super();
    this.api = api;
    this.about = about;
    this.prefix = `${BOX}${about.identity}:`;
    this.key = this.prefix + client;
    /** @type {Entry[]} */
    this.entries = [];
    /** @type {Refused[]} */
    this.refused = [];
    this.sending = false;
    this.online = true;
    this.failures = 0;
    this.single = 0; // so many of the next labels are sent one by one
    this.stored = true;
    /** @type {ApiError | null} */
    this.trouble = null;
    /** Positions the server should not ask again. @type {() => number[]} */
    this.skip = () => [];
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    this.read();
    this.alive();
    setInterval(() => this.alive(), 2000);
  }

  /** Labels not yet acknowledged. */
  get labels() {
    return this.entries.filter((entry) => entry.kind === "label").length;
  }

  read() {
    try {
      const own = JSON.parse(localStorage.getItem(this.key) ?? "null");
      this.entries = own?.entries ?? [];
      this.refused = own?.refused ?? [];
      this.adopt();
      this.outdated();
    } catch {
      this.stored = false;
    }
  }

  /** Takes over the boxes of tabs that are gone. */
  adopt() {
    const others = Object.keys(localStorage).filter((key) => key.startsWith(this.prefix) && key !== this.key);
    for (const key of others) {
      const box = JSON.parse(localStorage.getItem(key) ?? "null");
      if (!box || Date.now() - (box.alive ?? 0) < DEAD) continue;
      this.entries.unshift(...box.entries);
      this.refused.unshift(...(box.refused ?? []));
      this.keep();
      localStorage.removeItem(key);
      this.dispatchEvent(new CustomEvent("adopted", { detail: box.entries }));
    }
  }

  /** Boxes of this session from before its result changed: positions meant other candidates, so they are shown instead of sent. */
  outdated() {
    const others = Object.keys(localStorage).filter((key) => key.startsWith(BOX) && !key.startsWith(this.prefix));
    for (const key of others) {
      const box = JSON.parse(localStorage.getItem(key) ?? "null");
      if (!box || box.session !== this.about.session || Date.now() - (box.alive ?? 0) < DEAD) continue;
      const error = "The result was changed before the server had this: the place means another candidate now.";
      this.refused.push(...box.entries.map((/** @type {Entry} */ entry) => ({ entry, error, hint: "Look for the candidate and decide again." })));
      this.refused.push(...(box.refused ?? []));
      this.keep();
      localStorage.removeItem(key);
    }
  }

  alive() {
    try {
      if (this.entries.length || this.refused.length) this.keep();
      this.adopt();
      const before = this.refused.length;
      this.outdated();
      if (this.refused.length > before) this.changed();
      if (this.entries.length && !this.sending && this.timer === undefined) this.send();
    } catch {
      this.stored = false;
    }
  }

  keep() {
    try {
      if (this.entries.length || this.refused.length) {
        localStorage.setItem(this.key, JSON.stringify({ session: this.about.session, alive: Date.now(), entries: this.entries, refused: this.refused }));
      } else {
        localStorage.removeItem(this.key);
      }
      this.stored = true;
    } catch {
      this.stored = false; // the page says so: labels then last as long as the tab
    }
  }

  /** @param {...Entry} entries */
  put(...entries) {
    const now = Date.now();
    for (const entry of entries) {
      entry.at = now;
      this.entries.push(entry);
    }
    this.keep();
    // Once the next candidate is drawn, but before the browser puts it on the screen, which would hold the label up.
    if (!this.sending && this.online) {
      clearTimeout(this.timer);
      this.timer = undefined;
      queueMicrotask(() => this.send());
    }
    this.changed();
  }

  /** Tries now, whatever the back-off says. */
  hurry() {
    if (this.sending || !this.entries.length) return;
    clearTimeout(this.timer);
    this.timer = undefined;
    this.send();
  }

  /** @returns {{path: string, body: any, batch: Entry[]}} */
  next() {
    const first = this.entries[0];
    const { annotator, id, pos, kind } = first;
    const { identity } = this.about;
    const skip = this.skip();
    const end = this.entries.findIndex((e) => e.kind !== kind || e.annotator !== annotator);
    const most = this.single > 0 ? 1 : 500;
    const batch = this.entries.slice(0, Math.min(end < 0 ? this.entries.length : end, most));
    if (kind === "label") {
      const events = batch.map((e) => ({ id: e.id, pos: e.pos, value: e.value, seconds: e.seconds, question: e.question ?? null }));
      return { path: "api/labels", body: { annotator, identity, skip, events }, batch };
    }
    if (kind === "note") return { path: "api/note", body: { annotator, identity, id, pos, text: first.text }, batch: [first] };
    if (kind === "flag") return { path: "api/flag", body: { annotator, identity, id, pos, on: first.on }, batch: [first] };
    return { path: `api/${kind}`, body: { annotator, identity, skip, ids: batch.map((e) => e.id) }, batch };
  }

  async send() {
    this.timer = undefined;
    if (this.sending || !this.entries.length) return;
    this.sending = true;
    const { path, body, batch } = this.next();
    const sent = performance.now();
    try {
      const answer = await this.api.post(path, body);
      this.settle(batch, answer, sent);
    } catch (error) {
      this.fail(batch, error instanceof ApiError ? error : new ApiError(0, String(error)));
    }
    this.sending = false;
    this.changed();
    if (this.entries.length && this.timer === undefined) {
      const wait = this.failures ? Math.min(LONGEST, 250 * 2 ** Math.min(this.failures, 5)) : 0;
      if (wait) this.timer = setTimeout(() => this.send(), wait);
      else this.send();
    }
  }

  /**
   * @param {Entry[]} batch
   * @param {any} answer
   * @param {number} sent
   */
  settle(batch, answer, sent) {
    const acked = performance.now();
    /** @type {Map<string, {error: string, hint: string}>} */
    const no = new Map((answer.refused ?? []).map((/** @type {any} */ r) => [r.id, r]));
    const yes = batch[0].kind === "label" ? new Set(answer.acked ?? []) : new Set(batch.map((e) => e.id));
    const done = new Set(batch.filter((e) => yes.has(e.id) || no.has(e.id)));
    for (const entry of done) {
      const why = no.get(entry.id);
      if (why) this.refuse(entry, why.error, why.hint);
      else window.__actsort?.acks.push({ id: entry.id, sent, acked });
    }
    // An answer that speaks of none of them would be sent for ever.
    if (!done.size) return this.fail(batch, new ApiError(500, "The server did not say whether it has the labels."));
    this.entries = this.entries.filter((e) => !done.has(e));
    this.single = Math.max(0, this.single - done.size);
    this.failures = 0;
    this.trouble = null;
    this.setOnline(true);
    this.keep();
    this.dispatchEvent(new CustomEvent("answer", { detail: { answer, batch } }));
  }

  /**
   * @param {Entry[]} batch
   * @param {ApiError} error
   */
  fail(batch, error) {
    this.failures += 1;
    this.trouble = error;
    // 400, 404: the server will never take it. 403: another token. 409, 5xx, silence: later, perhaps.
    if (error.status === 400 || error.status === 404 || error.status === 413 || error.status === 422) {
      if (batch.length > 1) {
        // One of them is wrong: send them one by one, so that only that one is refused.
        this.single = batch.length;
        return;
      }
      for (const entry of batch) this.refuse(entry, error.what, error.hint);
      this.entries = this.entries.filter((e) => !batch.includes(e));
      this.single = Math.max(0, this.single - 1);
      this.failures = 0;
      this.keep();
    } else {
      this.setOnline(error.status !== 0 && error.status !== 502 && error.status !== 503 && error.status !== 504);
    }
    this.dispatchEvent(new CustomEvent("trouble", { detail: error }));
  }

  /**
   * Shown until the person has seen it; never dropped silently.
   * @param {Entry} entry
   * @param {string} error
   * @param {string} hint
   */
  refuse(entry, error, hint) {
    this.refused.push({ entry, error, hint });
    this.dispatchEvent(new CustomEvent("refused", { detail: { entry, error, hint } }));
  }

  /** @param {Refused} one */
  forget(one) {
    this.refused = this.refused.filter((r) => r !== one);
    this.keep();
    this.changed();
  }

  /** @param {boolean} online */
  setOnline(online) {
    if (this.online === online) return;
    this.online = online;
    this.dispatchEvent(new CustomEvent("online"));
  }

  changed() {
    this.dispatchEvent(new CustomEvent("changed"));
  }
}
