// @ts-check
/** The page from its start: who is here, the shell round the views, and what goes on once a second. */

import { ApiError, makeApi } from "./api.js";
import { joinDialog, mountDialogs } from "./dialogs.js";
import { Keys } from "./keys.js";
import { clientName } from "./outbox.js";
import { mountQuality } from "./quality.js";
import { mountReview } from "./review/review.js";
import { readSettings, showTheme } from "./settings.js";
import { mountFooter, mountHeader, mountToasts } from "./shell.js";
import { mountSort } from "./sort.js";
import { App } from "./store.js";
import { mountWrite } from "./write.js";

/** @typedef {import("./types.js").SessionInfo} SessionInfo */

window.__actsort = { latencies: [], acks: [], refused: 0, app: null };

const BEAT = 1000; // ms between two pulses
const THERE = 2.5; // s since its last pulse that somebody on another machine counts as there
const WAIT = 150; // ms that other tabs of this browser have to answer
const RETRY = 1500; // ms until the server is asked again where it does not answer at the start

/** @param {string} text */
function loading(text) {
  const element = /** @type {HTMLElement} */ (document.getElementById("loading"));
  element.textContent = text;
  element.hidden = !text;
}

/** What is remembered of this tab only. @param {string} name @param {string} [value] @returns {string | null} */
function tab(name, value) {
  try {
    if (value !== undefined) sessionStorage.setItem(`actsort:${name}`, value);
    return sessionStorage.getItem(`actsort:${name}`);
  } catch {
    return null;
  }
}

/** @param {import("./api.js").Api} api @returns {Promise<SessionInfo>} */
async function greet(api) {
  for (;;) {
    try {
      return await api.json("api/session");
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.status === 403) {
        loading(`${error.what}\n${error.hint || "Open the address that `actsort label` printed last: it holds a new token after each start."}\nLabels that were not sent yet are kept in this browser and will be sent then.`);
      } else loading(`${error.what}\nStart \`actsort label\` again with the same session; this page tries again by itself.`);
      await new Promise((done) => setTimeout(done, RETRY));
    }
  }
}

/**
 * Names under which other tabs of this browser have the session open. They answer at once, also when they are hidden and their clocks run slowly.
 * @param {SessionInfo} info @param {string} client @param {() => {annotator: string, watch: boolean} | null} me
 */
function neighbours(info, client, me) {
  const channel = new BroadcastChannel(`actsort:${info.session}`);
  /** @type {string[]} */
  const names = [];
  channel.addEventListener("message", ({ data }) => {
    const who = me();
    if (data.kind === "who" && who && !who.watch) channel.postMessage({ kind: "me", to: data.from, annotator: who.annotator });
    if (data.kind === "me" && data.to === client) names.push(data.annotator);
  });
  channel.postMessage({ kind: "who", from: client });
  return new Promise((/** @type {(names: string[]) => void} */ done) => setTimeout(() => done(names), WAIT));
}

/**
 * Another tab or person of the same name: two hands in one name would undo each other's labels, so ask.
 * @param {import("./api.js").Api} api @param {SessionInfo} info @param {string} annotator @param {string} client @param {Promise<string[]>} tabs
 */
async function whoAmI(api, info, annotator, client, tabs) {
  const asked = new URLSearchParams(location.search).get("annotator") ?? tab(`annotator:${info.session}`);
  const watch = tab(`watch:${info.session}`) === "yes";
  if (info.watch || watch) return { annotator: asked ?? annotator, watch: true };
  const name = asked ?? annotator;
  const pulse = await api.json("api/pulse", { annotator: name, client }).catch(() => null);
  const others = (pulse?.people ?? []).filter((/** @type {import("./types.js").Person} */ p) => p.client !== client && p.annotator === name && !p.watch && p.ago < THERE);
  if (!others.length && !(await tabs).includes(name)) return { annotator: name, watch: false };
  loading("");
  return joinDialog(name, (pulse?.people ?? []).map((/** @type {any} */ p) => p.annotator));
}

/** Where the person was: the same after a reload. @param {App} app */
function keepPlace(app) {
  const key = `place:${app.info.identity}`; // positions mean the same as long as that is the same
  const keep = () => {
    const place = { view: app.view, annotator: app.annotator, pos: app.current?.pos ?? null, question: app.question, list: app.list, skipped: [...app.skipped], colouring: app.colouring };
    if (app.current) tab(key, JSON.stringify(place));
  };
  let due = false;
  const later = () => {
    if (due) return;
    due = true;
    setTimeout(() => {
      due = false;
      keep();
    }, 300);
  };
  for (const name of ["current", "view", "list", "colouring"]) app.addEventListener(name, later);
  addEventListener("pagehide", keep);
  try {
    return JSON.parse(tab(key) ?? "null");
  } catch {
    return null;
  }
}

/** @param {App} app @param {any} place */
async function begin(app, place) {
  await Promise.all([app.refresh(true), app.readHistory()]);
  if (place) {
    app.skipped = new Set(place.skipped ?? []);
    if (place.colouring) app.setColouring(place.colouring);
    if (place.list) app.list = place.list;
  }
  for (const recording of app.info.recordings.keys()) {
    await app.footprints(recording).catch((error) => app.complain(error));
    if (recording === 0) break; // the others when they are looked at
  }
  if (place && Number.isInteger(place.pos) && place.pos < app.info.n_cells) {
    await app.queue.load(place.pos).then(
      (candidate) => app.show(candidate, app.state.label[place.pos] || place.annotator !== app.annotator ? null : place.question),
      () => app.next(),
    );
  } else app.next();
  app.queue.refill().catch((error) => app.complain(error));
  if (place?.view === "review") app.setView("review");
}

async function start() {
  showTheme(readSettings().theme);
  const token = new URLSearchParams(location.search).get("token") ?? "";
  const api = makeApi(token);
  const info = await greet(api);
  const client = clientName();
  /** @type {{annotator: string, watch: boolean} | null} */
  let me = null;
  const tabs = neighbours(info, client, () => me);
  const who = await whoAmI(api, info, info.annotator, client, tabs);
  me = who;
  tab(`annotator:${info.session}`, who.annotator);
  tab(`watch:${info.session}`, who.watch ? "yes" : "no");
  const app = new App(api, info, { ...who, client });
  window.__actsort.app = app;
  document.title = `ActSort: ${info.recordings[0]?.key ?? info.session}`;
  const place = keepPlace(app);

  new Keys(app);
  mountToasts(app);
  const { quality } = mountHeader(/** @type {HTMLElement} */ (document.getElementById("header")), app);
  mountFooter(/** @type {HTMLElement} */ (document.getElementById("footer")), app);
  mountDialogs(app);
  const sort = /** @type {HTMLElement} */ (document.getElementById("sort"));
  const review = /** @type {HTMLElement} */ (document.getElementById("review"));
  mountSort(sort, app);
  mountReview(review, app);
  mountQuality(quality, app);
  const write = mountWrite(app);
  app.actions.set("write", () => write.open());
  const showView = () => {
    sort.hidden = app.view !== "sort";
    review.hidden = app.view !== "review";
    // The browser takes the focus from what is hidden only with the next frame: a key before that would be lost there.
    const { activeElement } = document;
    if (activeElement instanceof HTMLElement && activeElement.closest("section[hidden]")) activeElement.blur();
  };
  app.addEventListener("view", showView);
  app.addEventListener("settings", () => showTheme(app.settings.theme));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    showTheme(app.settings.theme);
    app.emit("settings", { theme: app.settings.theme });
  });

  await begin(app, place);
  loading("");
  const beat = async () => {
    try {
      await app.heartbeat();
    } finally {
      setTimeout(beat, document.hidden ? 4 * BEAT : BEAT);
    }
  };
  beat();
  addEventListener("online", () => app.outbox.hurry());
  addEventListener("pagehide", () => navigator.sendBeacon(api.address("api/leave", { token }), JSON.stringify({ client })));
  addEventListener("beforeunload", (event) => {
    // They are kept and will be sent; but only once somebody opens this page again.
    if (app.pending && (!app.online || !app.outbox.stored)) event.preventDefault();
  });
}

start().catch((error) => {
  loading(`The page could not start: ${error?.message ?? error}\nReload it; if that does not help, sort in the terminal and tell us what it says here.`);
  throw error;
});

