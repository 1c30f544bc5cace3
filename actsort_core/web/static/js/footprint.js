// @ts-check
/** The candidate from near: its footprint over an image, and who overlaps it. */

import { font, h, Stage, toggle } from "./dom.js";
import { imageCanvas, preferred, valuesCanvas } from "./image.js";
import { drawOutlines, fit, Frames, haloText, inWindow, LETTERS, neighbourColour } from "./look.js";
import { imageName } from "./maptools.js";

/** @typedef {import("./store.js").App} App */
/** @typedef {import("./types.js").Candidate} Candidate */

/** Backgrounds that are the candidate's own, besides the images of the field of view. @type {[string, string][]} */
const OWN_PICTURES = [
  ["weights", "footprint's weights"],
  ["clip_mean", "mean of its events"],
  ["clip_max", "maximum of its events"],
  ["movie", "movie, large"],
];

/** @param {HTMLElement} panel @param {App} app @param {import("./look.js").Look} look */
export function mountCrop(panel, app, look) {
  const place = h("div", { class: "stage", id: "crop-stage" });
  const frames = new Frames();
  const picture = document.createElement("canvas");
  const stage = new Stage(place, "The footprint from near, with its outline and those of its neighbours", () => draw());

  const select = h("select", { "aria-label": "Picture under the footprint", title: "Picture under the footprint", id: "crop-picture" });
  select.addEventListener("change", () => {
    app.set({ crop: select.value });
    select.blur();
  });
  const neighbours = toggle("Neighbours", "Outlines of the candidates that overlap it", app.settings.neighbours, (on) => app.set({ neighbours: on }), { id: "crop-neighbours" });
  neighbours.addEventListener("click", (event) => event.detail > 0 && neighbours.blur());
  const where = h("span", { class: "quiet", id: "crop-where" });
  panel.append(h("div", { class: "tools" }, h("h2", {}, "Footprint"), select, h("span", { class: "grow" }), where, neighbours), place);

  let recording = -1;
  let waitingFor = "";

  /** @param {Candidate} candidate */
  function options(candidate) {
    if (candidate.recording === recording) return;
    recording = candidate.recording;
    const { images, clips } = app.info.recordings[recording];
    const own = OWN_PICTURES.filter(([name]) => name === "weights" || clips);
    const all = [...images.map((name) => [name, imageName(name)]), ...own];
    select.replaceChildren(...all.map(([value, text]) => h("option", { value }, text)));
    const wanted = app.settings.crop;
    select.value = all.some(([value]) => value === wanted) ? wanted : preferred(images, wanted);
  }

  /**
   * The window widened to the shape of the panel: the surroundings instead of black borders.
   * @param {Candidate} candidate
   * @param {{low: number[], size: number[]}} around
   */
  function widened(candidate, around) {
    const { low, size } = around;
    const [rows, columns] = app.info.recordings[candidate.recording].fov;
    const unit = Math.min(stage.width / size[1], stage.height / size[0]);
    const wanted = [Math.min(rows, Math.floor(stage.height / unit)), Math.min(columns, Math.floor(stage.width / unit))];
    const from = [0, 1].map((k) => Math.max(0, Math.min([rows, columns][k] - wanted[k], Math.round(low[k] - (wanted[k] - size[k]) / 2))));
    return { low: from, size: wanted };
  }

  /**
   * The picture to draw and where it lies; null while it is being fetched.
   * @param {Candidate} candidate
   * @param {{low: number[], size: number[]}} window
   * @param {string} name
   */
  function background(candidate, window, name) {
    const { dark, bright } = app.settings;
    const { clip, clipMean, clipMax, framesShape } = candidate;
    if (name === "weights") return weights(candidate, picture, dark, bright, window);
    if ((name === "clip_mean" || name === "clip_max") && clip && clipMean && clipMax) {
      const [, , rows, columns] = framesShape;
      const [a, b] = candidate.clipRange;
      valuesCanvas(name === "clip_mean" ? clipMean : clipMax, rows, columns, a + dark * (b - a), a + bright * (b - a), picture);
      return { canvas: picture, low: clip.low, size: [rows * clip.bin, columns * clip.bin] };
    }
    const { images } = app.info.recordings[candidate.recording];
    const image = preferred(images, name);
    const here = loaded.get(`${candidate.recording}/${image}`);
    if (!here) {
      waitingFor = `${candidate.recording}/${image}`;
      app.image(candidate.recording, image).then(
        (one) => {
          loaded.set(`${candidate.recording}/${image}`, one);
          if (waitingFor === `${candidate.recording}/${image}`) draw();
        },
        () => undefined, // the map says so
      );
      return null;
    }
    imageCanvas(here, dark, bright, window, picture);
    return { canvas: picture, ...window };
  }
  /** @type {Map<string, import("./types.js").FovImage>} */
  const loaded = new Map();

  function draw() {
    const context = stage.clear();
    const candidate = app.current;
    if (!candidate || !stage.width) return;
    const name = select.value;
    const { clip, framesShape } = candidate;
    const own = clip && /^(movie|clip)/.test(name); // these reach as far as the snippets do
    const window = widened(candidate, own ? { low: clip.low, size: [framesShape[2] * clip.bin, framesShape[3] * clip.bin] } : candidate);
    const at = fit(window.low, window.size, { x: 0, y: 0, w: stage.width, h: stage.height });
    const back = background(candidate, window, own ? "" : name);
    const { outlines, neighbours: others } = app.settings;
    inWindow(context, at, () => {
      if (back) {
        if (own) context.globalAlpha = 0.4; // what the snippet does not reach
        context.drawImage(back.canvas, back.low[1], back.low[0], back.size[1], back.size[0]);
        context.globalAlpha = 1;
      }
      if (own && name === "movie") frames.draw(context, candidate, look.event, look.frame);
      else if (own) {
        const near = background(candidate, window, name);
        if (near) context.drawImage(near.canvas, near.low[1], near.low[0], near.size[1], near.size[0]);
      }
      if (outlines) drawOutlines(context, candidate, at.unit, { neighbours: others });
    });
    if (outlines && others) letters(context, candidate, at);
  }

  /** @param {CanvasRenderingContext2D} context @param {Candidate} candidate @param {ReturnType<typeof fit>} at */
  function letters(context, candidate, at) {
    const all = app.footprintsHere.get(candidate.recording);
    if (!all) return;
    const { start } = app.info.recordings[candidate.recording];
    context.font = font(0.85, "700");
    context.textAlign = "center";
    context.textBaseline = "middle";
    candidate.neighbours.forEach(({ pos }, i) => {
      const [r, c] = [all.centres[2 * (pos - start)] + 0.5, all.centres[2 * (pos - start) + 1] + 0.5];
      const x = Math.max(at.x + 9, Math.min(at.x + at.w - 9, at.dx + c * at.unit));
      const y = Math.max(at.y + 10, Math.min(at.y + at.h - 10, at.dy + r * at.unit));
      haloText(context, LETTERS[i], x, y, neighbourColour(i, true));
    });
  }

  const refill = () => {
    if (app.current && select.value === "movie") frames.fill(app.current, app.settings.dark, app.settings.bright);
  };
  look.addEventListener("frame", () => select.value === "movie" && app.view === "sort" && draw());
  look.addEventListener("event", () => draw());
  app.addEventListener("settings", (event) => {
    const some = /** @type {CustomEvent} */ (event).detail ?? {};
    neighbours.setAttribute("aria-pressed", String(app.settings.neighbours));
    if ("crop" in some && [...select.options].some((o) => o.value === app.settings.crop)) select.value = app.settings.crop;
    if ("crop" in some || "dark" in some || "bright" in some) refill();
    draw();
  });
  app.addEventListener("map", () => draw());

  return {
    show() {
      const candidate = app.current;
      if (!candidate) return;
      options(candidate);
      refill();
      draw();
      where.textContent = `${candidate.size[0]} × ${candidate.size[1]} px`;
    },
  };
}

/**
 * The footprint's weights, brighter for heavier.
 * @param {Candidate} candidate
 * @param {HTMLCanvasElement} canvas
 * @param {number} dark
 * @param {number} bright
 * @param {{low: number[], size: number[]}} [window]
 */
export function weights(candidate, canvas, dark, bright, window = candidate) {
  const { pixels, weights: w, columns } = candidate;
  const { low, size } = window;
  const values = new Float32Array(size[0] * size[1]);
  for (let i = 0; i < pixels.length; i += 1) {
    const c = pixels[i] % columns;
    const r = (pixels[i] - c) / columns;
    if (r >= low[0] && r < low[0] + size[0] && c >= low[1] && c < low[1] + size[1]) values[(r - low[0]) * size[1] + c - low[1]] = w[i];
  }
  valuesCanvas(values, size[0], size[1], 255 * dark, 255 * bright, canvas);
  return { canvas, low, size };
}
