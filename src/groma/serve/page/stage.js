// Fits the picture into the room there is, and draws the rulers at its sides.

import { $, svg } from "./dom.js";
import { changed, lit, on, state, turnOnPicture } from "./state.js";
import { answerMarks } from "./marks.js";
import { css } from "./colors.js";

const SHORT_SIDE = 120; // a very long picture scrolls rather than become thinner than this
const RULER = 22; // as in style.css

/** The picture stands above the conversation, and the document scrolls; as in small.css. */
export const stacked = matchMedia("(max-width: 599px), (max-width: 860px) and (min-height: 600px)");

/** How the picture is shown: CSS pixels a picture's pixel, and its size in CSS pixels. */
export const view = { scale: 1, width: 0, height: 0 };

const pointer = { x: null, y: null }; // in pixels of the picture

export function startStage() {
  new ResizeObserver(layout).observe($("stage"));
  addEventListener("resize", layout);
  tellHeight($("plate"), "--plate-height");
  tellHeight($("composer"), "--composer-height");
  on("picture", showPicture);
  on("layout lit boxes shown", drawRulers);
}

/** So that on phones nothing is scrolled to behind what stays in place. */
function tellHeight(node, name) {
  new ResizeObserver(() => document.documentElement.style.setProperty(name, `${node.offsetHeight}px`)).observe(node);
}

function showPicture() {
  const { picture } = state;
  $("frame").hidden = $("tools").hidden = $("below").hidden = !picture;
  $("welcome").hidden = Boolean(picture);
  document.body.classList.toggle("with-picture", Boolean(picture));
  if (!picture) return;
  $("picture").src = picture.url;
  $("picture").alt = `The picture ${picture.name}, ${picture.width} by ${picture.height} pixels`;
  $("picture-name").replaceChildren(
    Object.assign(document.createElement("b"), { textContent: picture.name }),
    ` ${picture.width} × ${picture.height}`,
  );
  $("picture-name").title = picture.name;
  layout();
}

/** Picks the scale: all of the picture is seen, unless it is so long that it would be a mere line. */
function layout() {
  const { picture } = state;
  if (!picture) return;
  const stage = $("stage");
  const style = getComputedStyle(stage);
  const rulers = stacked.matches ? 0 : RULER;
  const roomX =
    stage.clientWidth - Number.parseFloat(style.paddingLeft) - Number.parseFloat(style.paddingRight) - rulers;
  const high = stacked.matches
    ? innerHeight * 0.37 // as in small.css
    : stage.clientHeight - Number.parseFloat(style.paddingTop) - Number.parseFloat(style.paddingBottom);
  const roomY = Math.max(high - rulers, 120);
  const [fitX, fitY] = [roomX / picture.width, roomY / picture.height];
  const least = Math.min(SHORT_SIDE / Math.min(picture.width, picture.height), Math.max(fitX, fitY));
  const scale = Math.max(Math.min(fitX, fitY), least);
  const [width, height] = [
    Math.max(1, Math.floor(picture.width * scale)),
    Math.max(1, Math.floor(picture.height * scale)),
  ];
  const canvas = $("canvas");
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  canvas.dataset.long = least > Math.min(fitX, fitY) ? (fitX > fitY ? "tall" : "wide") : "";
  $("picture").classList.toggle("magnified", scale >= 4);
  Object.assign(view, { scale, width, height });
  changed("layout");
}

/** CSS pixels of the canvas of a box in pixels of the picture. */
export function onScreen([x1, y1, x2, y2]) {
  const [sx, sy] = [view.width / state.picture.width, view.height / state.picture.height];
  return [x1 * sx, y1 * sy, x2 * sx, y2 * sy];
}

/** Scrolls a picture that is too long to be seen whole to a box in its pixels; never the page. */
export function bringIntoView(box) {
  const stage = $("stage");
  if (!box || !$("canvas").dataset.long) return;
  const [frame, canvas] = [stage.getBoundingClientRect(), $("canvas").getBoundingClientRect()];
  const [x1, y1, x2, y2] = onScreen(box);
  const [left, top] = [canvas.left - frame.left, canvas.top - frame.top];
  stage.scrollBy(way(left + x1, left + x2, stage.clientWidth), way(top + y1, top + y2, stage.clientHeight));
}

/** How far to scroll so that `from` to `to` is inside 0 to `room`; what does not fit shows its beginning. */
function way(from, to, room) {
  const aside = 12;
  if (from < aside) return from - aside;
  return Math.max(0, Math.min(to + aside - room, from - aside));
}

/** Where an event of the pointer is, in pixels of the picture (not rounded). */
export function inPicture(event) {
  const rect = $("canvas").getBoundingClientRect();
  const { width, height } = state.picture;
  return [((event.clientX - rect.left) * width) / rect.width, ((event.clientY - rect.top) * height) / rect.height];
}

/** Shows where the pointer is (null: nowhere), and beside it a box that is being drawn or changed. */
export function showPointer(x, y, box = null) {
  const { width, height } = state.picture ?? { width: 0, height: 0 };
  const inside = x !== null && x >= 0 && y >= 0 && x <= width && y <= height;
  pointer.x = inside ? x : null;
  pointer.y = inside ? y : null;
  const parts = inside ? [`${Math.floor(x)}, ${Math.floor(y)}`] : [];
  if (box) parts.unshift(`${box.join(", ")}  (${box[2] - box[0]} × ${box[3] - box[1]})`);
  $("readout").textContent = box ? parts[0] : parts.join("");
  drawRulers();
}

function drawRulers() {
  if (!state.picture || stacked.matches) return;
  const bars = litBoxes();
  ruler(
    $("ruler-across"),
    state.picture.width,
    view.width,
    bars.map(({ box, color }) => [box[0], box[2], color]),
    pointer.x,
    true,
  );
  ruler(
    $("ruler-down"),
    state.picture.height,
    view.height,
    bars.map(({ box, color }) => [box[1], box[3], color]),
    pointer.y,
    false,
  );
}

/** The boxes whose extent the rulers show: what is lit, else the selected box. */
function litBoxes() {
  const now = lit();
  if (now?.entities?.size) {
    const marks = answerMarks(turnOnPicture()?.entities ?? []);
    return marks
      .filter((mark) => mark.entities.some((index) => now.entities.has(index)))
      .map(({ box, color }) => ({ box, color: css(color) }));
  }
  const number = now?.own ?? state.selected;
  return state.boxes.filter((own) => own.number === number).map(({ box }) => ({ box, color: "currentColor" }));
}

/** Ticks at round numbers of pixels, coloured bars, and the pointer's place. */
function ruler(node, pixels, length, bars, at, isAcross) {
  const scale = length / pixels;
  const parts = [];
  const line = (place, from) => {
    const p = Math.round(place * scale) + 0.5;
    parts.push(svg("path", { d: isAcross ? `M${p} ${from}V${RULER}` : `M${from} ${p}H${RULER}` }));
  };
  const step = tickStep(scale);
  const minor = step % 5 === 0 ? step / 5 : step / 2;
  for (let tick = 0; tick <= pixels; tick += minor) {
    const isMajor = Math.abs(tick / step - Math.round(tick / step)) < 1e-6;
    if (!isMajor && minor < 1) continue;
    line(tick, isMajor ? RULER - 9 : RULER - 4);
    const fits = tick * scale + 30 < length;
    if (isMajor && fits) {
      const p = tick * scale + 3;
      const place = isAcross ? { x: p, y: 11 } : { transform: `translate(11 ${p}) rotate(-90)`, "text-anchor": "end" };
      parts.push(svg("text", place, String(tick)));
    }
  }
  for (const [low, high, color] of bars) {
    const [start, size] = [low * scale, Math.max((high - low) * scale, 2)];
    const place = isAcross
      ? { x: start, y: RULER - 5, width: size, height: 5 }
      : { x: RULER - 5, y: start, width: 5, height: size };
    parts.push(svg("rect", { ...place, fill: color }));
  }
  if (at !== null) {
    const p = at * scale;
    const end = RULER - 1;
    const d = isAcross ? `M${p} ${end}l-4 -7h8z` : `M${end} ${p}l-7 -4v8z`;
    parts.push(svg("path", { class: "pointer", d }));
  }
  node.replaceChildren(...parts);
}

/** The smallest of 1, 2, 5, 10, ... pixels that takes some room on the screen. */
function tickStep(scale) {
  for (let power = 1; ; power *= 10) {
    for (const factor of [1, 2, 5]) if (power * factor * scale >= 58) return power * factor;
  }
}
