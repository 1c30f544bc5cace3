// @ts-check
/** Header, footer and messages round the views. */

import { h, put } from "./dom.js";
import { actionButton } from "./keys.js";

/** @typedef {import("./store.js").App} App */

/** @param {HTMLElement} header @param {App} app */
export function mountHeader(header, app) {
  const labels = h("strong", { id: "labels" }, "0 labels");
  const fit = h("small", { id: "fit" }, "");
  const people = h("span", { class: "people", id: "people" });
  const quality = h("div", { class: "slot", id: "quality" });
  const blind = actionButton(app, "blind", { keys: false, class: "toggle" });
  const notes = h("button", { type: "button", id: "session-notes", hidden: true, onclick: () => app.emit("open-notes") });
  const views = h("div", { class: "tabs", role: "group", "aria-label": "View" }, actionButton(app, "view_sort"), actionButton(app, "view_review"));
  header.append(
    h("div", { class: "brand", title: app.info.session }, h("img", { src: "static/icon.svg", alt: "" }), h("span", {}, "ActSort")),
    views,
    h("div", { class: "count", role: "status", "aria-live": "off" }, labels, fit),
    quality,
    people,
    notes,
    blind,
    actionButton(app, "write", { text: "Write back…", keys: false }),
    h("button", { type: "button", id: "settings-open", title: "Theme, keys, who labels", onclick: () => app.emit("open-settings") }, "Settings"),
    actionButton(app, "help", { text: "Keys" }),
  );

  const count = () => {
    const waiting = app.pending;
    put(labels, `${app.labels.toLocaleString("en")} ${app.labels === 1 ? "label" : "labels"}`);
    const { pulse } = app;
    const learned = pulse?.fitted_on ?? app.state.fitted_on;
    let text = learned ? `model from ${learned.toLocaleString("en")}` : "no model yet";
    if (pulse?.fitting) text = "model is learning…";
    if (waiting > 3) text = `${waiting} on their way`;
    put(fit, text);
    const known = notesOf(app);
    notes.hidden = !known.length;
    put(notes, `Hints ${known.length}`, known.join("\n\n"));
    notes.setAttribute("aria-label", `Hints ${known.length}: good to know about this session`);
    put(people, app.watch ? "You are watching" : others(app), whoIsHere(app));
  };
  const toggles = () => {
    blind.setAttribute("aria-pressed", String(app.blind));
    for (const button of views.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.action === `view_${app.view}`));
    }
  };
  for (const name of ["count", "state", "pulse", "pending"]) app.addEventListener(name, count);
  for (const name of ["view", "settings"]) app.addEventListener(name, toggles);
  count();
  toggles();
  return { quality };
}

/** What the server wants to be known of this session. @param {App} app */
export function notesOf(app) {
  return [...new Set([...app.info.notes, ...(app.pulse?.notes ?? [])])];
}

/** @param {App} app */
function others(app) {
  const rest = (app.pulse?.people ?? []).filter((p) => p.client !== app.client);
  if (!rest.length) return app.annotator;
  const names = [...new Set(rest.map((p) => (p.watch ? `${p.annotator} (watching)` : p.annotator)))];
  return `${app.annotator} + ${names.join(", ")}`;
}

/** @param {App} app */
function whoIsHere(app) {
  const people = (app.pulse?.people ?? []).map((p) => `${p.annotator}${p.client === app.client ? " (this tab)" : ""}${p.watch ? ", watching" : ""}`);
  return people.length ? `Here now: ${people.join("; ")}` : `You label as ${app.annotator}`;
}

/**
 * What needs to be known: the server is gone, labels wait, labels were refused, it is time to stop.
 * @param {HTMLElement} footer @param {App} app
 */
export function mountFooter(footer, app) {
  const gone = h("p", {});
  const banner = h("div", { class: "banner error", id: "offline", role: "alert", hidden: true }, gone, h("button", { type: "button", onclick: () => app.outbox.hurry() }, "Try now"));
  const no = h("p", {});
  const refused = h("div", { class: "banner error", id: "refused", role: "alert", hidden: true }, no, h("button", { type: "button", onclick: () => app.emit("open-refused") }, "Show them"));
  footer.append(banner, refused);
  let told = false;
  // Over the read-outs, which are old now, not over the buttons; and what is below does not move.
  const place = () => {
    const shown = !banner.hidden || !refused.hidden;
    document.body.classList.toggle("told", shown);
    const [count, blind] = ["#header .count", '#header [data-action="blind"]'].map((where) => document.querySelector(where));
    if (!shown || !count || !blind) return;
    footer.style.left = `${count.getBoundingClientRect().right + 6}px`;
    footer.style.right = `${innerWidth - blind.getBoundingClientRect().left + 6}px`;
  };
  addEventListener("resize", place);
  const show = () => {
    const { outbox } = app;
    const waiting = app.outbox.entries.length;
    const others = waiting - app.pending;
    const counts = [[app.pending, "label"], [others, app.pending ? "other change" : "change"]].filter(([n]) => n).map(([n, what]) => `${n} ${what}${n === 1 ? "" : "s"}`);
    const labels = waiting ? `${counts.join(" and ")} waiting` : "nothing is waiting";
    const status = outbox.trouble?.status ?? 0;
    const open = outbox.stored ? "" : " Leave this tab open until they are sent.";
    banner.hidden = outbox.online && !(outbox.trouble && (waiting || status === 403));
    if (!banner.hidden) {
      if (!outbox.online) put(gone, `The server does not answer. What you press is kept here and will be sent: ${labels}.${open} If it was stopped, start it again${location.port ? ` with --port ${location.port}` : ""}.`);
      else if (status === 403) put(gone, `The server was started anew: open the address it printed. What you pressed is kept in this browser: ${labels}.`);
      else if (outbox.trouble) put(gone, `${outbox.trouble.what} ${outbox.trouble.hint} Kept here and sent again: ${labels}.${open}`);
      gone.title = gone.textContent ?? "";
    }
    if (!outbox.stored && !told) {
      // Once: a frame in a notebook often may keep nothing, and everything else works there.
      told = true;
      app.say("This browser does not let the page keep anything: should the server be gone, leave the tab open until all labels are sent.", { kind: "info", hint: "" });
    }
    refused.hidden = !outbox.refused.length;
    if (outbox.refused.length) {
      const n = outbox.refused.length;
      put(no, `The server did not take ${n === 1 ? "one label" : `${n} labels`}: ${outbox.refused[n - 1].error}`);
      no.title = no.textContent ?? "";
    }
    place();
  };
  for (const name of ["pending", "online", "refused"]) app.addEventListener(name, show);
  show();
}

const LASTS = { info: 1800, error: 9000 };
const MOST = 3;

/** @param {App} app */
export function mountToasts(app) {
  const place = /** @type {HTMLElement} */ (document.getElementById("toasts"));
  app.addEventListener("unsay", () => {
    for (const old of place.querySelectorAll(".toast.info")) old.remove();
  });
  app.addEventListener("say", (event) => {
    const { text, kind, hint } = /** @type {CustomEvent<{text: string, kind: "info" | "error", hint: string}>} */ (event).detail;
    const whole = hint ? `${text} ${hint}` : text;
    for (const old of place.children) if (old.firstChild?.textContent === whole) old.remove();
    while (place.children.length >= MOST) place.firstElementChild?.remove();
    const toast = h("div", { class: `toast ${kind}` }, h("span", {}, whole));
    toast.append(h("button", { type: "button", class: "bare", "aria-label": "Close this message", onclick: () => toast.remove() }, "×"));
    place.append(toast);
    setTimeout(() => toast.remove(), LASTS[kind] + 25 * whole.length);
  });
}
