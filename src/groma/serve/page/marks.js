// What an answer draws on its picture: an outline and a label for each phrase of each region, and where labels stand.

import { area } from "./geometry.js";
import { PALETTE, colorOf, phraseNumbers, textOn } from "./colors.js";

export const percent = (score) => `${Math.round(score * 100)}%`;

/**
 * The outlines of an answer, large ones first, so that small ones lie on top.
 *
 * Each is {region, box, number, entities, label, score, color, on, dash, inset}; `number` counts phrases, `inset`
 * the other outlines of the same region around it, `dash` is 0 for a full line.
 */
export function answerMarks(entities) {
  const numbers = phraseNumbers(entities);
  const regions = new Map();
  entities.forEach((entity, index) => {
    (entity.region_ids ?? []).forEach((region, place) => {
      const box = entity.boxes_xyxy_px?.[place];
      if (!box) return;
      if (!regions.has(region)) regions.set(region, new Map());
      const marks = regions.get(region);
      const number = numbers[index];
      if (marks.has(number)) {
        marks.get(number).entities.push(index);
        return;
      }
      const label = (entity.phrase ?? "").split(/\s+/u).filter(Boolean).join(" ") || `r${region}`;
      const color = colorOf(number);
      const score = entity.region_scores?.[place] ?? entity.score;
      const [dash, inset] = [Math.floor(number / PALETTE.length), marks.size];
      marks.set(number, {
        region,
        box,
        number,
        entities: [index],
        label,
        score,
        color,
        on: textOn(color),
        dash,
        inset,
      });
    });
  });
  const all = [...regions.values()].flatMap((marks) => [...marks.values()]);
  return all.sort((a, b) => area(b.box) - area(a.box) || a.inset - b.inset);
}

/**
 * Where labels stand, as on drawings of groma.inference.draw: where they cover least of other labels and boxes.
 *
 * Everything in pixels of the drawn picture {width, height}. `tags` are {box, width, height, ...}, of which the first
 * chooses first; a label that would lie on others for more than `crowded` of it is left out (unless its `must` is set).
 * Returns [{tag, left, top}].
 */
export function placeTags(tags, boxes, size, crowded = 1) {
  const taken = [];
  const placed = [];
  for (const tag of tags) {
    if (tag.width > size.width || tag.height > size.height) continue;
    let best = null;
    for (const [left, top] of places(tag, size)) {
      const rect = [left, top, left + tag.width, top + tag.height];
      const onTags = taken.reduce((sum, other) => sum + shared(rect, other), 0) / area(rect);
      const onBoxes = boxes.reduce((sum, other) => sum + shared(rect, other) / Math.max(area(other), 1), 0);
      const awayX = Math.max(tag.box[0] - rect[2], rect[0] - tag.box[2], 0);
      const awayY = Math.max(tag.box[1] - rect[3], rect[1] - tag.box[3], 0);
      const cost = 20 * onTags + 2 * onBoxes + (awayX + awayY) / tag.height;
      if (!best || cost < best.cost - 1e-9) best = { cost, rect, onTags };
    }
    if (best.onTags > crowded && !tag.must) continue;
    taken.push(best.rect);
    placed.push({ tag, left: best.rect[0], top: best.rect[1] });
  }
  return placed;
}

/** Above its box, inside, below, beside, then further up and down. */
function* places({ box: [left, top, right, bottom], width, height }, size) {
  const inside = (x, y) => [
    Math.min(Math.max(x, 0), size.width - width),
    Math.min(Math.max(y, 0), size.height - height),
  ];
  yield inside(left, top - height);
  yield inside(right - width, top - height);
  yield inside(left, top);
  yield inside(right - width, top);
  yield inside(left, bottom);
  yield inside(right - width, bottom);
  yield inside(left, bottom - height);
  yield inside(right - width, bottom - height);
  yield inside(right, top);
  yield inside(left - width, top);
  for (let step = 1; step <= 8; step += 1) {
    yield inside(left, top + height * step);
    yield inside(left, top - height * (step + 1));
  }
}

function shared(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  return Math.max(0, width) * Math.max(0, height);
}

/** As much of a text as fits, with an ellipsis if it is cut; `widthOf` measures. */
export function fitted(text, room, widthOf) {
  if (widthOf(text) <= room) return text;
  const points = Array.from(text);
  let [low, high] = [0, points.length];
  while (low < high) {
    const half = Math.ceil((low + high) / 2);
    if (widthOf(`${points.slice(0, half).join("")}…`) <= room) low = half;
    else high = half - 1;
  }
  return low ? `${points.slice(0, low).join("")}…` : "";
}
