// @ts-check
/** Talking to the server: addresses relative to the page, the token, packs of arrays, errors that say what to do. */

/** @typedef {import("./types.js").Pack} Pack */

/** What went wrong: status 0 where nobody answered. */
export class ApiError extends Error {
  /**
   * @param {number} status
   * @param {string} what
   * @param {string} [hint]
   */
  constructor(status, what, hint = "") {
    super(what);
    this.status = status;
    this.what = what;
    this.hint = hint;
  }
}

/** @type {Record<string, (buffer: ArrayBuffer, offset: number, length: number) => any>} */
const VIEWS = {
  u1: (b, o, n) => new Uint8Array(b, o, n),
  i1: (b, o, n) => new Int8Array(b, o, n),
  u2: (b, o, n) => new Uint16Array(b, o, n),
  u4: (b, o, n) => new Uint32Array(b, o, n),
  i4: (b, o, n) => new Int32Array(b, o, n),
  f4: (b, o, n) => new Float32Array(b, o, n),
};

const QUICK = /^api\/(pulse|labels|undo|redo|note|flag|queue|candidate|state|history)/; // what the server answers at once, when it answers at all
const PATIENCE = 12000; // ms until it counts as gone

const utf8 = new TextDecoder();

/**
 * Arrays are views into the answer: nothing is copied.
 * @param {ArrayBuffer} buffer
 * @returns {Pack}
 */
export function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(utf8.decode(new Uint8Array(buffer, 4, length)));
  /** @type {Record<string, any>} */
  const arrays = {};
  for (const [name, { dtype, shape, offset }] of Object.entries(header.arrays ?? {})) {
    const size = shape.reduce((/** @type {number} */ a, /** @type {number} */ b) => a * b, 1);
    arrays[name] = VIEWS[dtype](buffer, 4 + length + offset, size);
  }
  return { header, arrays };
}

/**
 * @param {string} token
 * @param {string} [base]
 */
export function makeApi(token, base = document.baseURI) {
  /**
   * @param {string} path
   * @param {Record<string, string | number | boolean | undefined>} [params]
   */
  function address(path, params = {}) {
    const url = new URL(path, base);
    for (const [name, value] of Object.entries(params)) {
      if (value !== undefined && value !== "") url.searchParams.set(name, String(value));
    }
    return url;
  }

  /**
   * @template T
   * @param {string} path
   * @param {Record<string, string | number | boolean | undefined>} params
   * @param {RequestInit} init
   * @param {(answer: Response) => Promise<T>} read its body; under the same watch, because a server can be killed in the middle of it
   * @returns {Promise<T>}
   */
  async function ask(path, params, init, read) {
    // A server that hangs must count as one that is gone: labels wait in the outbox, not in an open request. Writing back may take its time.
    const patience = new AbortController();
    const timer = QUICK.test(path) ? setTimeout(() => patience.abort(), PATIENCE) : undefined;
    try {
      const headers = { "X-ActSort-Token": token, ...(init.headers ?? {}) };
      const answer = await fetch(address(path, params), { ...init, cache: "no-store", signal: patience.signal, headers });
      if (answer.ok) return await read(answer);
      /** @type {{error?: string, hint?: string}} */
      const said = await answer.json().catch(() => ({})); // a proxy's own page, say: the status is all there is to tell
      throw new ApiError(answer.status, said.error ?? `The server answered ${answer.status}.`, said.hint ?? "");
    } catch (error) {
      if (error instanceof ApiError) throw error;
      throw new ApiError(0, "The server does not answer.", "Is `actsort label` still running? What you press is kept here until it is back.");
    } finally {
      clearTimeout(timer);
    }
  }

  return {
    address,
    /**
     * @param {string} path
     * @param {Record<string, string | number | boolean | undefined>} [params]
     * @returns {Promise<any>}
     */
    json(path, params = {}) {
      return ask(path, params, {}, (answer) => answer.json());
    },
    /**
     * @param {string} path
     * @param {Record<string, string | number | boolean | undefined>} [params]
     * @returns {Promise<Pack | null>} null: nothing new (204)
     */
    packOrNothing(path, params = {}) {
      return ask(path, params, {}, async (answer) => (answer.status === 204 ? null : unpack(await answer.arrayBuffer())));
    },
    /**
     * @param {string} path
     * @param {Record<string, string | number | boolean | undefined>} [params]
     * @returns {Promise<Pack>}
     */
    pack(path, params = {}) {
      return ask(path, params, {}, async (answer) => unpack(await answer.arrayBuffer()));
    },
    /**
     * @param {string} path
     * @param {object} body
     * @returns {Promise<any>}
     */
    post(path, body) {
      const init = { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
      return ask(path, {}, init, (answer) => answer.json());
    },
  };
}

/** @typedef {ReturnType<typeof makeApi>} Api */
