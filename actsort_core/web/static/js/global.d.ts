import type { App } from "./store.js";

declare global {
  interface Window {
    /** For measurements: when a key went down and when the next candidate was on the screen; when labels were acknowledged. */
    __actsort: {
      latencies: { pos: number; key: number; painted: number }[];
      acks: { id: string; sent: number; acked: number }[];
      refused: number;
      app: App | null;
    };
  }
}
export {};
