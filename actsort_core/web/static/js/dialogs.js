// @ts-check
/** Dialogs: all keys and their bindings, notes, settings, who labels, what was refused. */

import { choice, h } from "./dom.js";
import { canonical, combinationOf, keysOf, shown } from "./keys.js";
import { notesOf } from "./shell.js";

/** @typedef {import("./store.js").App} App */
/** @typedef {import("./types.js").KeyInfo} KeyInfo */

/**
 * @param {string} id
 * @param {string} title
 * @param {(Node | string)[]} body
 * @param {(HTMLElement | null)[]} [buttons]
 */
export function openDialog(id, title, body, buttons = []) {
  document.getElementById(id)?.remove();
  const dialog = h("dialog", { id, "aria-labelledby": `${id}-title` });
  const close = h("button", { type: "button", class: "bare", "aria-label": "Close", title: "Close (esc)", onclick: () => dialog.close() }, "×");
  dialog.append(h("header", {}, h("h2", { id: `${id}-title` }, title), close), h("div", { class: "body" }, ...body));
  if (buttons.length) dialog.append(h("footer", {}, ...buttons));
  dialog.addEventListener("close", () => {
    dialog.remove();
    document.dispatchEvent(new Event("dialog"));
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // beside it
  });
  document.body.append(dialog);
  dialog.showModal();
  document.dispatchEvent(new Event("dialog"));
  return dialog;
}

/** @param {App} app */
export function mountDialogs(app) {
  app.actions.set("help", () => helpDialog(app));
  app.actions.set("note", () => noteDialog(app));
  app.addEventListener("open-settings", () => settingsDialog(app));
  app.addEventListener("open-refused", () => refusedDialog(app));
  app.addEventListener("open-notes", () => void openDialog("session-notes-list", "Good to know", notesOf(app).map((note) => h("p", {}, note))));
}

/** @param {App} app */
function helpDialog(app) {
  const list = h("div", { class: "keys-list" });
  /** @type {(() => void) | null} */
  let stop = null;
  const note = h("p", { role: "status", class: "quiet" }, "Press “Change” and then the new key. “Add” keeps the old one besides.");

  /** @param {KeyInfo} key @param {HTMLElement} row @param {boolean} add */
  function listen(key, row, add) {
    stop?.();
    row.classList.add("listening");
    note.textContent = `Press the new key for “${key.title}”. Esc leaves it as it is.`;
    const heard = (/** @type {KeyboardEvent} */ event) => {
      if (["Shift", "Control", "Alt", "Meta", "CapsLock"].includes(event.key)) return;
      event.preventDefault();
      event.stopPropagation();
      stop?.();
      if (event.key === "Escape") return void (note.textContent = "Nothing was changed.");
      if (event.key === "Tab") return void (note.textContent = "Tab moves between buttons and cannot be used.");
      const wanted = combinationOf(event);
      const taken = app.info.keys.find((k) => k.action !== key.action && keysOf(app, k).some((one) => canonical(one) === wanted));
      if (taken) {
        note.textContent = `“${shown(wanted)}” already does “${taken.title}”. Give that another key first, or choose another one here.`;
        return;
      }
      const old = add ? keysOf(app, key).filter((one) => canonical(one) !== wanted) : [];
      app.set({ keys: { ...app.settings.keys, [key.action]: [...old, wanted] } });
      note.textContent = `“${shown(wanted)}” now does “${key.title}”.`;
      fill();
    };
    stop = () => {
      document.removeEventListener("keydown", heard, true);
      row.classList.remove("listening");
      stop = null;
    };
    document.addEventListener("keydown", heard, true);
  }

  function fill() {
    list.replaceChildren();
    const groups = [...new Set(app.info.keys.map((key) => key.group))];
    for (const group of groups) {
      const section = h("section", {}, h("h3", {}, group));
      for (const key of app.info.keys.filter((k) => k.group === group)) {
        const caps = h("span", { class: "caps" }, ...keysOf(app, key).map((one) => h("kbd", {}, shown(one))));
        const row = h("div", { class: "key-row", "data-key": key.action, title: key.help }, caps, h("span", { class: "ellipsis" }, h("strong", {}, key.title), " ", h("small", {}, key.help)));
        row.append(
          h(
            "span",
            {},
            h("button", { type: "button", class: "bare", title: `Change the key of ${key.title}`, "aria-label": `Change the key of ${key.title}`, "data-rebind": "change", onclick: () => listen(key, row, false) }, "Change"),
            h("button", { type: "button", class: "bare", title: `Another key for ${key.title}`, "aria-label": `Add a key to ${key.title}`, "data-rebind": "add", onclick: () => listen(key, row, true) }, "Add"),
          ),
        );
        section.append(row);
      }
      list.append(section);
    }
  }
  fill();
  const reset = h("button", { type: "button", id: "keys-reset", onclick: () => {
    stop?.();
    app.set({ keys: {} });
    note.textContent = "All keys are as they were at first.";
    fill();
  } }, "Reset all keys");
  const dialog = openDialog("help", "Keys", [layoutField(app, fill), note, list], [reset]);
  dialog.addEventListener("close", () => stop?.());
}

/** @param {App} app @param {() => void} [then] */
function layoutField(app, then) {
  const select = choice("Layout of the keys", [["both", "both hands"], ["right", "right hand and arrows"], ["left", "left hand"]], app.settings.layout, (value) => {
    app.set({ layout: /** @type {"both"} */ (value) });
    then?.();
  }, { id: "layout" });
  return h("div", { class: "field" }, h("span", {}, "Layout"), select);
}

/** @param {App} app @param {import("./types.js").Candidate | null} [current] of which */
export function noteDialog(app, current = app.current) {
  if (!current) return;
  if (!app.mayLabel()) return;
  const { pos } = current;
  const own = current.notes.find((n) => n.annotator === app.annotator)?.text ?? "";
  const text = h("textarea", { rows: 4, cols: 50, "aria-label": "Note", placeholder: "What the next person should know. Empty: no note.", id: "note-text" });
  text.value = own;
  const keep = () => {
    app.note(pos, text.value);
    dialog.close();
  };
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      keep();
    }
  });
  const others = current.notes.filter((n) => n.annotator !== app.annotator).map((n) => h("p", {}, h("strong", {}, n.annotator), `: ${n.text}`));
  const dialog = openDialog("note", `Note on candidate ${current.index}`, [...others, text, h("small", {}, "Enter keeps it, shift + enter begins a new line.")], [h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"), h("button", { type: "button", class: "main", onclick: keep }, "Keep note")]);
  text.focus();
}

/** @param {App} app */
function settingsDialog(app) {
  const theme = choice("Theme", [["system", "as the system"], ["dark", "dark"], ["light", "light"]], app.settings.theme, (value) => app.set({ theme: /** @type {"dark"} */ (value) }), { id: "theme" });
  const link = new URL(location.href);
  if (app.info.watch_token) link.searchParams.set("token", app.info.watch_token);
  const watch = h("input", { type: "text", readonly: true, "aria-label": "Address to watch only", value: link.href, size: 44 });
  const name = h("input", { type: "text", value: app.annotator, "aria-label": "Name of the person who labels", id: "annotator" });
  const change = () => {
    const to = new URL(location.href);
    if (!name.value.trim() || name.value.trim() === app.annotator) return;
    to.searchParams.set("annotator", name.value.trim());
    location.href = to.href;
  };
  const body = [
    h("div", { class: "field" }, h("span", {}, "Theme"), theme),
    layoutField(app),
    h("div", { class: "field" }, h("span", {}, "You label as"), name, h("button", { type: "button", onclick: change }, "Change")),
    ...(app.info.watch_token ? [h("div", { class: "field" }, h("span", {}, "To watch only, open"), watch)] : []),
    h("small", {}, `Session: ${app.info.session}`),
    h("small", {}, `ActSort ${app.info.version}, ${app.info.n_cells.toLocaleString("en")} candidates in ${app.info.recordings.length} ${app.info.recordings.length === 1 ? "recording" : "recordings"}`),
  ];
  openDialog("settings", "Settings", body, [h("button", { type: "button", onclick: () => helpDialog(app) }, "Keys…")]);
}

/** @param {App} app */
function refusedDialog(app) {
  const list = h("div", {});
  const fill = () => {
    list.replaceChildren(
      ...app.outbox.refused.map((one) => {
        const { entry } = one;
        const what = entry.kind === "label" ? `Candidate ${entry.pos}: ${app.className(entry.value ?? "")}` : `${entry.kind}${entry.pos === undefined ? "" : ` of candidate ${entry.pos}`}`;
        const look = entry.pos === undefined || entry.pos >= app.info.n_cells ? null : h("button", { type: "button", onclick: () => {
          dialog.close();
          app.goto(/** @type {number} */ (entry.pos));
        } }, "Look at it");
        const gone = h("button", { type: "button", onclick: () => {
          app.outbox.forget(one);
          fill();
        } }, "Seen");
        return h("div", { class: "field" }, h("span", {}, h("strong", {}, what), h("br"), `${one.error} ${one.hint}`), look, gone);
      }),
    );
    if (!app.outbox.refused.length) list.replaceChildren(h("p", {}, "Nothing is left here."));
  };
  const dialog = openDialog("refused-list", "What the server did not take", [list]);
  fill();
}

/**
 * Somebody labels under this name in another tab.
 * @param {string} name
 * @param {string[]} taken
 * @returns {Promise<{annotator: string, watch: boolean}>}
 */
export function joinDialog(name, taken) {
  return new Promise((done) => {
    let free = `${name}-2`;
    for (let i = 2; taken.includes(free); i += 1) free = `${name}-${i + 1}`;
    const field = h("input", { type: "text", value: free, "aria-label": "Your name", id: "join-name" });
    let chosen = false;
    const choose = (/** @type {string} */ annotator, /** @type {boolean} */ watch) => {
      chosen = true;
      dialog.close();
      done({ annotator, watch });
    };
    const join = () => choose(field.value.trim() || free, false);
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter") join();
    });
    const dialog = openDialog(
      "join",
      `${name} is labelling in another tab`,
      [
        h("p", {}, "Two people under one name would take back each other's labels. Nothing can be damaged, but choose how you want to take part:"),
        h("div", { class: "field" }, h("label", { for: "join-name" }, "Your name"), field, h("button", { type: "button", class: "main", id: "join-as", onclick: join }, "Label under this name")),
      ],
      [
        h("button", { type: "button", id: "join-watch", onclick: () => choose(name, true) }, "Watch only"),
        h("button", { type: "button", id: "join-here", onclick: () => choose(name, false) }, `Carry on here as ${name}`),
      ],
    );
    dialog.addEventListener("close", () => {
      if (!chosen) done({ annotator: name, watch: true }); // closed without a choice: the one that harms nobody
    });
    field.select();
  });
}
