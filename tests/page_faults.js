// What is wrong with how the page lies in its window: controls over one another, outside it or cut off; a page that scrolls.
() => {
  const out = [];
  const root = document.documentElement;
  if (root.scrollWidth > innerWidth + 1 || root.scrollHeight > innerHeight + 1) out.push(`the page scrolls: ${root.scrollWidth} x ${root.scrollHeight}`);
  const top = document.querySelector("dialog[open]") ?? document.querySelector(":popover-open") ?? document.querySelector("#quality-panel:not([hidden])") ?? document.body;
  const name = (e) => `${e.tagName.toLowerCase()}#${e.id} "${(e.getAttribute("aria-label") ?? e.textContent).trim().slice(0, 40)}"`;
  const controls = [];
  for (const e of top.querySelectorAll("button, select, input, textarea, summary")) {
    if (!e.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    let { left, top: up, right, bottom } = e.getBoundingClientRect();
    if (right - left < 3 || bottom - up < 3) continue;
    let scrolls = false;
    for (let p = e.parentElement; p; p = p.parentElement) {
      const how = getComputedStyle(p);
      if (p !== top && how.overflowX === "visible" && how.overflowY === "visible") continue;
      if (p.scrollHeight > p.clientHeight + 1 || p.scrollWidth > p.clientWidth + 1) scrolls = true;
      const r = p.getBoundingClientRect();
      [left, up, right, bottom] = [Math.max(left, r.left), Math.max(up, r.top), Math.min(right, r.right), Math.min(bottom, r.bottom)];
      if (p === top) break; // what lies above everything is not cut by what it stands in
    }
    if (!scrolls && (left < -1 || up < -1 || right > innerWidth + 1 || bottom > innerHeight + 1)) out.push(`${name(e)} is outside the window`);
    if (right - left < 2 || bottom - up < 2) {
      if (!scrolls) out.push(`${name(e)} cannot be seen`);
      continue;
    }
    if (e.tagName === "BUTTON" && getComputedStyle(e).textOverflow !== "ellipsis" && (e.scrollWidth > e.clientWidth + 2 || e.scrollHeight > e.clientHeight + 2))
      out.push(`${name(e)} is cut off: ${e.scrollWidth} x ${e.scrollHeight} in ${e.clientWidth} x ${e.clientHeight}`);
    controls.push({ e, left, up, right, bottom });
  }
  for (const [i, a] of controls.entries()) {
    for (const b of controls.slice(i + 1)) {
      if (a.e.contains(b.e) || b.e.contains(a.e) || (a.e.type === "range" && b.e.type === "range" && a.e.parentElement === b.e.parentElement)) continue;
      const [w, h] = [Math.min(a.right, b.right) - Math.max(a.left, b.left), Math.min(a.bottom, b.bottom) - Math.max(a.up, b.up)];
      if (w > 2 && h > 2) out.push(`${name(a.e)} and ${name(b.e)} lie over one another`);
    }
  }
  return out;
}
