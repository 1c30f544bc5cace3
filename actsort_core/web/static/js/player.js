// @ts-check
/** Movie snippets round the best events, playing in a loop; still images where there is no movie. */

import { font, h, lineWidth, put, Stage } from "./dom.js";
import { weights } from "./footprint.js";
import { imageCanvas } from "./image.js";
import { actionButton } from "./keys.js";
import { drawOutlines, fit, Frames, haloText, inWindow, OWN } from "./look.js";
import { imageName } from "./maptools.js";

/** @typedef {import("./store.js").App} App */
/** @typedef {import("./types.js").Candidate} Candidate */
/** A new candidate (its own outline alone, at once), the same again, or the next frame of it. @typedef {"new" | "still" | "playing"} How */

const SPEEDS = [2, 4, 6, 10, 15, 20, 30];
const STILLS = 4; // images of the field of view that are shown where there is no movie
const GAP = 4; // CSS pixels between two
const SETTLE = 300; // ms that a new candidate stands still: the screen is busy with everything else about it

/** @param {HTMLElement} panel @param {App} app @param {import("./look.js").Look} look */
export function mountPlayer(panel, app, look) {
  const place = h("div", { class: "stage", id: "player-stage" });
  const stage = new Stage(place, "Movie snippets round the best events", () => draw(), "tiles");
  const frames = new Frames();
  const play = actionButton(app, "play", { text: "Play" });
  const speed = h("span", { class: "quiet speed" });
  const title = h("h2", {}, "Events");
  const hint = h("span", { class: "quiet ellipsis" });
  const large = h("button", { type: "button", class: "toggle", id: "large", title: "The chosen event large, in place of the footprint's picture" }, "Large");
  large.addEventListener("click", (event) => {
    app.set({ crop: app.settings.crop === "movie" ? "mean" : "movie" });
    if (event.detail > 0) large.blur();
  });
  const moving = [play, actionButton(app, "slower", { icon: "−", keys: false }), speed, actionButton(app, "faster", { icon: "+", keys: false }), large];
  panel.append(
    h("div", { class: "tools" }, title, hint, h("span", { class: "grow" }), actionButton(app, "event_previous", { icon: "‹", keys: false }), actionButton(app, "event_next", { icon: "›", keys: false }), ...moving),
    place,
  );

  /** @type {{x: number, y: number, w: number, h: number}[]} */
  let boxes = [];
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let later;

  /** @param {number} n */
  function layout(n) {
    const { width, height } = stage;
    // As many columns as make the pictures largest.
    let best = { side: 0, columns: 1 };
    for (let columns = 1; columns <= n; columns += 1) {
      const rows = Math.ceil(n / columns);
      const side = Math.min((width - GAP * (columns + 1)) / columns, (height - GAP * (rows + 1)) / rows);
      if (side > best.side) best = { side, columns };
    }
    const { side, columns } = best;
    const left = (width - columns * side - (columns - 1) * GAP) / 2;
    const rows = Math.ceil(n / columns);
    const top = (height - rows * side - (rows - 1) * GAP) / 2;
    boxes = Array.from({ length: n }, (_, i) => ({ x: left + (i % columns) * (side + GAP), y: top + Math.floor(i / columns) * (side + GAP), w: side, h: side }));
  }

  /** @param {CanvasRenderingContext2D} context @param {{x: number, y: number, w: number, h: number}} box @param {string} text */
  function caption(context, box, text) {
    context.font = font(0.74, "600");
    context.textAlign = "left";
    context.textBaseline = "top";
    haloText(context, text, box.x + 4, box.y + 3, "#ffffff", box.w - 8);
  }

  /**
   * @param {CanvasRenderingContext2D} context
   * @param {Candidate} candidate
   * @param {{x: number, y: number, w: number, h: number}} box
   * @param {(context: CanvasRenderingContext2D) => void} picture
   * @param {{low: number[], size: number[]}} window
   * @param {How} [how]
   */
  function tile(context, candidate, box, picture, window, how = "still") {
    const at = fit(window.low, window.size, box);
    inWindow(context, at, () => {
      picture(context);
      if (app.settings.outlines && how !== "playing") drawOutlines(context, candidate, at.unit, { neighbours: app.settings.neighbours && how === "still" });
    });
    if (app.settings.outlines && how === "playing") context.drawImage(outlinesFor(candidate, box, window), box.x, box.y, box.w, box.h);
  }

  const outlines = document.createElement("canvas");
  let outlined = "";

  /**
   * The outlines over a tile, the same over all: while the snippets play they are not stroked anew for every frame.
   * A new candidate is drawn without this canvas: what it takes to make one would be waited for.
   * @param {Candidate} candidate
   * @param {{w: number, h: number}} box
   * @param {{low: number[], size: number[]}} window
   */
  function outlinesFor(candidate, box, window) {
    const { ratio } = stage;
    const wanted = [candidate.pos, candidate.around.size, box.w, box.h, ratio, app.settings.neighbours].join();
    if (wanted === outlined) return outlines;
    outlined = wanted;
    outlines.width = Math.max(1, Math.round(box.w * ratio));
    outlines.height = Math.max(1, Math.round(box.h * ratio));
    const context = /** @type {CanvasRenderingContext2D} */ (outlines.getContext("2d"));
    context.scale(outlines.width / box.w, outlines.height / box.h);
    const at = fit(window.low, window.size, { x: 0, y: 0, w: box.w, h: box.h });
    inWindow(context, at, () => drawOutlines(context, candidate, at.unit, { neighbours: app.settings.neighbours }));
    return outlines;
  }

  /** @param {How} [how] */
  function draw(how = "still") {
    const candidate = app.current;
    if (!candidate || !stage.width) return;
    if (candidate.frames && candidate.clip) movie(candidate, how);
    else stills(candidate);
  }

  /** @param {Candidate} candidate @param {How} how */
  function movie(candidate, how) {
    const context = stage.clear();
    const { events, rows, columns, length } = frames;
    if (boxes.length !== events || !boxes[0]?.w) layout(events);
    const clip = /** @type {import("./types.js").ClipInfo} */ (candidate.clip);
    const window = { low: clip.low, size: [rows * clip.bin, columns * clip.bin] };
    const { fps } = app.info.recordings[candidate.recording];
    for (let e = 0; e < events; e += 1) {
      const box = boxes[e];
      tile(context, candidate, box, (c) => frames.draw(c, candidate, e, look.frame), window, how);
      const frame = candidate.events[e];
      caption(context, box, `${e + 1}: ${fps ? `${(frame / fps).toFixed(1)} s` : `frame ${frame}`}`);
      const done = (box.w * (look.frame + 1)) / length;
      context.fillStyle = e === look.event ? OWN : "rgba(255,255,255,0.55)";
      const thick = lineWidth(3);
      context.fillRect(box.x, box.y + box.h - thick, done, thick);
      if (e === look.event) {
        context.strokeStyle = OWN;
        context.lineWidth = lineWidth(2);
        context.strokeRect(box.x - 1, box.y - 1, box.w + 2, box.h + 2);
      }
    }
  }

  /** @type {Map<string, import("./types.js").FovImage>} */
  const images = new Map();
  const pictures = Array.from({ length: STILLS + 1 }, () => document.createElement("canvas"));

  /** Without a movie: what there is of the place, side by side. @param {Candidate} candidate */
  function stills(candidate) {
    const context = stage.clear();
    const { recording, low, size } = candidate;
    const names = app.info.recordings[recording].images.slice(0, STILLS);
    if (boxes.length !== names.length + 1 || !boxes[0]?.w) layout(names.length + 1);
    const { dark, bright } = app.settings;
    names.forEach((name, i) => {
      const key = `${recording}/${name}`;
      const image = images.get(key);
      if (!image) {
        app.image(recording, name).then(
          (one) => {
            if (images.has(key)) return;
            images.set(key, one);
            draw();
          },
          () => undefined,
        );
        return;
      }
      imageCanvas(image, dark, bright, { low, size }, pictures[i]);
      tile(context, candidate, boxes[i], (c) => c.drawImage(pictures[i], low[1], low[0]), candidate);
      caption(context, boxes[i], imageName(name));
    });
    const end = boxes[names.length];
    const { canvas } = weights(candidate, pictures[names.length], 0, 1);
    tile(context, candidate, end, (c) => c.drawImage(canvas, low[1], low[0]), candidate);
    caption(context, end, "footprint");
  }

  // A timer, not every frame of the screen: frames in which nothing moves would keep the browser from painting the next candidate at once.
  function tick() {
    const { settings, current } = app;
    setTimeout(tick, 1000 / settings.fps);
    if (!settings.playing || app.view !== "sort" || !current?.frames || document.hidden) return;
    if (performance.now() - app.shownAt < SETTLE) return;
    look.play((look.frame + 1) % Math.max(1, frames.length));
    draw("playing");
  }
  tick();

  /** @param {number} by */
  function faster(by) {
    const at = SPEEDS.findIndex((s) => s >= app.settings.fps);
    app.set({ fps: SPEEDS[Math.max(0, Math.min(SPEEDS.length - 1, at + by))] });
  }
  app.actions.set("play", () => app.set({ playing: !app.settings.playing }));
  app.actions.set("faster", () => faster(1));
  app.actions.set("slower", () => faster(-1));
  app.actions.set("event_next", () => look.step(app.current, 1));
  app.actions.set("event_previous", () => look.step(app.current, -1));
  look.addEventListener("event", () => draw());

  const tools = () => {
    play.setAttribute("aria-pressed", String(app.settings.playing));
    put(speed, `${app.settings.fps} frames/s`);
    large.setAttribute("aria-pressed", String(app.settings.crop === "movie"));
  };
  app.addEventListener("settings", (event) => {
    const some = /** @type {CustomEvent} */ (event).detail ?? {};
    tools();
    if (("dark" in some || "bright" in some) && app.current) frames.fill(app.current, app.settings.dark, app.settings.bright);
    draw();
  });
  new ResizeObserver(() => {
    boxes = [];
    draw();
  }).observe(place);
  stage.canvas.addEventListener("click", (event) => {
    const at = boxes.findIndex((b) => event.offsetX >= b.x && event.offsetX < b.x + b.w && event.offsetY >= b.y && event.offsetY < b.y + b.h);
    if (at >= 0 && app.current?.frames) look.choose(at);
  });
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) app.settings.playing = false;
  tools();

  return {
    show() {
      const candidate = app.current;
      if (!candidate) return;
      frames.fill(candidate, app.settings.dark, app.settings.bright);
      const moves = Boolean(candidate.frames);
      for (const one of moving) one.toggleAttribute("hidden", !moves);
      const { clips, movie: has } = app.info.recordings[candidate.recording];
      put(title, moves ? "Events in the movie" : "Still images");
      put(hint, moves ? "" : clips ? "No snippet of this candidate." : has ? "No snippets of the movie yet: they are made by the first computation of features." : "No movie: give it with --movie PATH to see its events.");
      if (!moves) return draw();
      // The neighbours' outlines, on every snippet the same, come with the first frame that moves, or when it would: they are in the large picture.
      draw("new");
      clearTimeout(later);
      if (!app.settings.playing) later = setTimeout(() => draw(), SETTLE);
    },
  };
}
