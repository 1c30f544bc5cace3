// @ts-check
/**
 * The shapes of what the server says (docs/page-api.md) and of what the modules hand to each other. Types only.
 *
 * @typedef {Float32Array | Uint32Array | Uint16Array | Uint8Array | Int8Array | Int32Array} TypedArray
 * @typedef {{header: any, arrays: Record<string, any>}} Pack a decoded answer with arrays
 *
 * @typedef {object} RecordingInfo
 * @property {string} key
 * @property {number} start position of its first candidate
 * @property {number} n_cells
 * @property {number[]} fov rows, columns and perhaps depth
 * @property {number} n_frames
 * @property {number | null} fps
 * @property {string} trace_kind
 * @property {string} format
 * @property {string[]} images
 * @property {boolean} clips
 * @property {boolean} movie
 *
 * @typedef {{name: string, kind: string, own: boolean}} ClassInfo
 * @typedef {{action: string, group: string, keys: string[], left: string[], title: string, help: string}} KeyInfo
 * @typedef {{name: string, unit: string, description: string}} FeatureInfo
 *
 * @typedef {object} SessionInfo
 * @property {string} version
 * @property {string} session
 * @property {string} identity of the candidates in their order: positions mean the same as long as it is the same
 * @property {string} annotator
 * @property {boolean} watch
 * @property {string | null} watch_token
 * @property {boolean} blind
 * @property {number} n_cells
 * @property {RecordingInfo[]} recordings
 * @property {ClassInfo[]} classes
 * @property {KeyInfo[]} keys
 * @property {FeatureInfo[]} features
 * @property {string} strategy
 * @property {string[]} notes
 *
 * @typedef {object} State
 * @property {number} rev
 * @property {number} labels
 * @property {number} fitted_on
 * @property {number | null} share
 * @property {number[]} thresholds
 * @property {string} rule
 * @property {string[]} annotators
 * @property {Float32Array} probability
 * @property {Uint8Array} accepted
 * @property {Uint8Array} origin
 * @property {Uint8Array} label
 * @property {Uint8Array} who
 * @property {Int8Array} prior
 * @property {Float32Array} priorProbability
 * @property {Uint8Array} flagged
 *
 * @typedef {{pos: number, strategy: string, reason: string, inclusion: number | null, p: number | null}} Question
 * @typedef {{rev: number, labels: number, fitted_on: number, questions: Question[]}} QueueAnswer
 *
 * @typedef {{annotator: string, client: string, watch: boolean, ago: number}} Person
 * @typedef {object} Pulse
 * @property {number} rev
 * @property {number} labels
 * @property {number} fitted_on
 * @property {boolean} fitting
 * @property {string | null} stop
 * @property {Person[]} people
 * @property {string[]} notes
 *
 * @typedef {{pos: number, overlap: number, correlation: number | null}} Neighbour
 * @typedef {{annotator: string, time: string, text: string}} Note
 * @typedef {{step: number, low: number[], bin: number}} ClipInfo
 *
 * @typedef {object} Candidate one candidate, decoded
 * @property {number} pos
 * @property {number} recording
 * @property {number} index
 * @property {string} fingerprint
 * @property {[number, number]} low
 * @property {[number, number]} size
 * @property {[number, number]} centre
 * @property {number} columns of the field of view
 * @property {{verdict: number | null, probability: number | null}} prior verdict 1: cell, -1: not a cell, 0: none
 * @property {[string, number, number | null][]} metrics
 * @property {Neighbour[]} neighbours
 * @property {number[]} events
 * @property {"full" | "envelope"} traceKind
 * @property {Note[]} notes
 * @property {ClipInfo | null} clip
 * @property {Uint32Array} pixels
 * @property {Uint8Array} weights
 * @property {Float32Array} trace
 * @property {Float32Array} neighbourTraces
 * @property {number} neighbourBins
 * @property {Uint8Array | null} frames `(events, 11, rows, columns)`
 * @property {[number, number, number, number]} framesShape
 * @property {Float32Array | null} clipMean
 * @property {Float32Array | null} clipMax
 * @property {Float32Array | null} clipTrace
 * @property {[number, number]} clipRange
 * @property {[number, number]} traceRange
 * @property {number} area pixels within its outline
 * @property {Outline | null} outline of its own footprint, in pixels of the field of view
 * @property {Map<number, Outline>} around outlines of its neighbours, filled once the footprints are here
 *
 * @typedef {Path2D} Outline
 *
 * @typedef {{bounds: Uint32Array, pixels: Uint32Array, edge: Uint8Array, centres: Float32Array}} Footprints
 * @typedef {{header: {min: number, max: number, dark: number, bright: number}, image: Uint16Array, rows: number, columns: number}} FovImage
 *
 * @typedef {object} Past one of the last labels
 * @property {number} pos
 * @property {string} value
 * @property {number | null} seconds
 * @property {string} time
 * @property {string} reason
 * @property {number | null} p
 *
 * @typedef {object} Colouring
 * @property {"decision" | "confidence" | "origin" | "label" | "prior" | "feature"} kind
 * @property {string} [feature]
 *
 * @typedef {{name: string, positions: number[], at: number}} List
 *
 * @typedef {object} LabelEvent
 * @property {string} id
 * @property {number} pos
 * @property {string} value
 * @property {number | null} seconds
 * @property {Question | null} question
 *
 * @typedef {object} Entry one thing said to the server that it has not acknowledged yet
 * @property {"label" | "undo" | "redo" | "note" | "flag"} kind
 * @property {string} id
 * @property {string} annotator
 * @property {number} [pos]
 * @property {string} [value]
 * @property {number | null} [seconds]
 * @property {Question | null} [question]
 * @property {string} [text]
 * @property {boolean} [on]
 * @property {number} [at] time it was said, milliseconds since 1970
 *
 * @typedef {{entry: Entry, error: string, hint: string}} Refused
 */
export {};
