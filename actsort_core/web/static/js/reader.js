// @ts-check
/** What every part of the page needs: the server, the session, messages, and answers that are kept. */

import { ApiError } from "./api.js";
import { readSettings } from "./settings.js";

export class Reader extends EventTarget {
  /**
   * @param {import("./api.js").Api} api
   * @param {import("./types.js").SessionInfo} info
   * @param {{annotator: string, client: string, watch: boolean}} who
   */
  constructor(api, info, who) {
    super();
    this.api = api;
    this.info = info;
    this.client = who.client;
    this.annotator = who.annotator;
    this.watch = info.watch || who.watch;
    this.settings = readSettings();
    this.blind = info.blind || this.settings.blind;
    /** @type {Map<string, Promise<any>>} */
    this.cache = new Map();
    /** Those that are here. @type {Map<number, import("./types.js").Footprints>} */
    this.footprintsHere = new Map();
  }

  /** @param {string} name @param {any} [detail] */
  emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  /** @param {string} text @param {{kind?: "info" | "error", hint?: string}} [more] */
  say(text, more = {}) {
    this.emit("say", { text, kind: more.kind ?? "info", hint: more.hint ?? "" });
  }

  /** @param {unknown} error */
  complain(error) {
    if (error instanceof ApiError) this.say(error.what, { kind: "error", hint: error.hint });
    else throw error;
  }

  /**
   * @template T
   * @param {string} key
   * @param {() => Promise<T>} make
   * @returns {Promise<T>}
   */
  cached(key, make) {
    let promise = this.cache.get(key);
    if (!promise) {
      promise = make();
      promise.catch(() => this.cache.delete(key));
      this.cache.set(key, promise);
    }
    return promise;
  }

  /** @param {number} recording @returns {Promise<import("./types.js").Footprints>} */
  footprints(recording) {
    return this.cached(`footprints/${recording}`, async () => {
      const { arrays } = await this.api.pack(`api/footprints/${recording}`);
      const all = /** @type {import("./types.js").Footprints} */ (/** @type {unknown} */ (arrays));
      this.footprintsHere.set(recording, all);
      this.emit("footprints", recording);
      return all;
    });
  }

  /** @param {number} recording @param {string} name @returns {Promise<import("./types.js").FovImage>} */
  image(recording, name) {
    return this.cached(`image/${recording}/${name}`, async () => {
      const { header, arrays } = await this.api.pack(`api/image/${recording}/${encodeURIComponent(name)}`);
      const [rows, columns] = header.arrays.image.shape;
      return { header, image: arrays.image, rows, columns };
    });
  }

  /** @param {string} name @returns {Promise<Float32Array>} */
  feature(name) {
    return this.cached(`feature/${name}`, async () => (await this.api.pack(`api/feature/${encodeURIComponent(name)}`)).arrays.values);
  }
}
