// @ts-check
/** Images of the field of view as canvases, under the chosen contrast. */

/** @typedef {import("./types.js").FovImage} FovImage */

/** The contrasts that the key goes through: [dark, bright] as parts of the range that is shown at first. */
export const CONTRASTS = /** @type {[string, number, number][]} */ ([
  ["automatic", 0, 1],
  ["soft", -0.3, 1.6],
  ["hard", 0.15, 0.6],
]);

/** Which image to show first: the chosen one where there is it; a background alone says little. @param {string[]} images @param {string} wanted */
export function preferred(images, wanted) {
  if (images.includes(wanted)) return wanted;
  return images.find((name) => !/background|per_pixel/i.test(name)) ?? images[0];
}

/** Grey levels for 0 to 65535. @param {number} low @param {number} high @returns {Uint8Array} */
function greys(low, high) {
  const table = new Uint8Array(65536);
  const gain = 255 / Math.max(1, high - low);
  for (let v = 0; v < 65536; v += 1) table[v] = Math.max(0, Math.min(255, Math.round((v - low) * gain)));
  return table;
}

/** Levels shown as black and as white. @param {FovImage} image @param {number} dark @param {number} bright @returns {[number, number]} */
export function levels(image, dark, bright) {
  const { header } = image;
  const span = header.bright - header.dark;
  return [header.dark + dark * span, header.dark + Math.max(dark + 0.02, bright) * span];
}

/**
 * A part of an image as a canvas of its own size.
 * @param {FovImage} image
 * @param {number} dark
 * @param {number} bright
 * @param {{low: number[], size: number[]} | null} [window] the whole image without
 * @param {HTMLCanvasElement} [canvas] to be used again
 */
export function imageCanvas(image, dark, bright, window = null, canvas = document.createElement("canvas")) {
  const [r0, c0] = window?.low ?? [0, 0];
  const [rows, columns] = window?.size ?? [image.rows, image.columns];
  const [low, high] = levels(image, dark, bright);
  const small = rows * columns < 65536;
  const table = small ? null : greys(low, high);
  const gain = 255 / Math.max(1, high - low);
  if (canvas.width !== columns || canvas.height !== rows) {
    canvas.width = columns;
    canvas.height = rows;
  }
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const data = new ImageData(columns, rows);
  const out = new Uint32Array(data.data.buffer);
  for (let r = 0; r < rows; r += 1) {
    const from = (r0 + r) * image.columns + c0;
    for (let c = 0; c < columns; c += 1) {
      const v = image.image[from + c];
      const g = table ? table[v] : Math.max(0, Math.min(255, (v - low) * gain)) | 0;
      out[r * columns + c] = (255 << 24) | (g << 16) | (g << 8) | g;
    }
  }
  context.putImageData(data, 0, 0);
  return canvas;
}

/**
 * Values in a window as a canvas, between two of them.
 * @param {ArrayLike<number>} values
 * @param {number} rows
 * @param {number} columns
 * @param {number} low
 * @param {number} high
 * @param {HTMLCanvasElement} [canvas]
 */
export function valuesCanvas(values, rows, columns, low, high, canvas = document.createElement("canvas")) {
  if (canvas.width !== columns || canvas.height !== rows) {
    canvas.width = columns;
    canvas.height = rows;
  }
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  const data = new ImageData(columns, rows);
  const out = new Uint32Array(data.data.buffer);
  const gain = 255 / (high - low || 1);
  for (let i = 0; i < out.length; i += 1) {
    const v = values[i];
    const g = v === v ? Math.max(0, Math.min(255, (v - low) * gain)) | 0 : 0;
    out[i] = (255 << 24) | (g << 16) | (g << 8) | g;
  }
  context.putImageData(data, 0, 0);
  return canvas;
}
