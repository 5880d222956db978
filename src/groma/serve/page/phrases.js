// An answer's text with its phrases marked. Spans count Unicode code points, as Python does; JavaScript counts UTF-16.

import { el } from "./dom.js";
import { colorOf, css, phraseNumbers, textOn } from "./colors.js";
import { percent } from "./marks.js";
import { written } from "./geometry.js";

/** The text cut into {text} and {text, entity: index}, in order; where spans overlap, the first one counts. */
function segments(text, entities) {
  const points = Array.from(text);
  const order = entities
    .map((entity, index) => ({ ...entity, index }))
    .sort((a, b) => a.start - b.start || a.end - b.end);
  const found = [];
  let at = 0;
  for (const { start, end, index, region_ids: regions } of order) {
    const from = Math.min(Math.max(start, at), points.length);
    const to = Math.min(end, points.length);
    if (end > start && to <= from) continue; // hidden by another phrase, or not there yet
    if (from > at) found.push({ text: points.slice(at, from).join("") });
    const phrase = points.slice(from, to).join("");
    found.push({ text: phrase || (regions ?? []).map((region) => `r${region}`).join(" "), entity: index });
    at = Math.max(at, to);
  }
  if (at < points.length) found.push({ text: points.slice(at).join("") });
  return found;
}

/** Writes them into `parent`. Nodes that stay the same are kept: text grows, and focus and pointer stay where they are. */
export function writePhrases(parent, text, entities, descriptionId) {
  const numbers = phraseNumbers(entities);
  const wanted = segments(text, entities);
  wanted.forEach((segment, place) => {
    const now = parent.childNodes[place];
    const isPhrase = segment.entity !== undefined;
    if (now && !isPhrase && now.nodeType === Node.TEXT_NODE) {
      if (now.data !== segment.text) now.data = segment.text;
    } else if (!(
      now &&
      isPhrase &&
      now.dataset?.entity === String(segment.entity) &&
      now.textContent === segment.text
    )) {
      const node = isPhrase ? phrase(segment, descriptionId) : document.createTextNode(segment.text);
      if (now) now.replaceWith(node);
      else parent.append(node);
    }
    if (isPhrase) paint(parent.childNodes[place], colorOf(numbers[segment.entity]));
  });
  while (parent.childNodes.length > wanted.length) parent.lastChild.remove();
}

function phrase({ text, entity }, descriptionId) {
  const describedBy = descriptionId(entity);
  const kind = text.length <= 22 ? "phrase short" : "phrase"; // a short one is not broken over lines
  return el(
    "span",
    { class: kind, role: "button", tabindex: "0", "data-entity": entity, "aria-describedby": describedBy },
    text,
  );
}

function paint(node, color) {
  node.style.setProperty("--c", css(color));
  node.style.setProperty("--on", css(textOn(color)));
}

/** What a screen reader says about a phrase: its regions, in pixels. */
export function described(entity) {
  const boxes = (entity.boxes_xyxy_px ?? []).map(written);
  const where =
    boxes.length === 1 ? `Region at pixels ${boxes[0]}` : `${boxes.length} regions, at pixels ${boxes.join("; ")}`;
  return entity.score === undefined ? where : `${where}; ${percent(entity.score)} sure`;
}
