// Draws what lies on the picture: regions of the answer, boxes of the reader, proposals, and their labels.

import { $, keyed, set, svg } from "./dom.js";
import { area, written } from "./geometry.js";
import { css } from "./colors.js";
import { answerMarks, fitted, percent, placeTags } from "./marks.js";
import { lit, on, pinned, same, state, turnOnPicture } from "./state.js";
import { onScreen, view } from "./stage.js";

const HANDLES = ["nw", "n", "ne", "e", "se", "s", "sw", "w"];
const INSET = 5; // between two outlines of one region
const TAG = { height: 20, pad: 6 };

const measuring = document.createElement("canvas").getContext("2d");

export function startOverlay() {
  on("layout picture boxes turns shown lit proposals", () => {
    if (!waiting) waiting = requestAnimationFrame(draw);
  });
}

let waiting = 0;

/** The outlines of the answer on the picture. */
export const shownMarks = () => answerMarks(turnOnPicture()?.entities ?? []);

/** The proposals that the slider lets through. */
export function shownProposals() {
  const { on: isOn, list, min } = state.proposals;
  return isOn && list ? list.filter((region) => region.objectness >= min) : [];
}

/** What an earlier question pointed at, where the reader has no such box any more. */
export function ghosts() {
  const asked = turnOnPicture()?.boxes ?? [];
  return asked.filter(
    ({ number, box }) => !state.boxes.some((own) => own.number === number && own.box.every((v, k) => v === box[k])),
  );
}

function draw() {
  waiting = 0;
  if (!state.picture) return;
  const now = lit();
  const turn = turnOnPicture();
  const marks = shownMarks();
  set($("overlay"), { width: view.width, height: view.height });
  $("overlay").classList.toggle("something-lit", Boolean(now && (now.entities?.size || now.asked?.size || now.own)));
  drawProposals();
  drawMarks(turn, marks, now);
  drawGhosts(now);
  drawOwn(now);
  drawTags(marks, now);
  drawHandles();
}

const rect = (box, inset = 0) => ({
  x: box[0] + inset,
  y: box[1] + inset,
  width: Math.max(box[2] - box[0] - 2 * inset, 1),
  height: Math.max(box[3] - box[1] - 2 * inset, 1),
});

const isLit = (mark, now) => Boolean(now?.entities && mark.entities.some((index) => now.entities.has(index)));

/** A question's number lights the reader's box only where the question saw it; else it lights a ghost. */
const isOwnLit = ({ number }, now) =>
  now?.own === number || Boolean(now?.asked?.has(number) && !ghosts().some((ghost) => ghost.number === number));

function drawProposals() {
  keyed(
    $("proposal-boxes"),
    shownProposals(),
    (region) => region.id,
    () => svg("g", {}, svg("rect", { class: "edge" }), svg("rect", { class: "line" })),
    (node, region) => {
      for (const child of node.children) set(child, rect(onScreen(region.box_xyxy_px)));
      node.style.setProperty("--o", String(0.35 + 0.65 * region.objectness));
    },
  );
}

function drawMarks(turn, marks, now) {
  const create = () =>
    svg(
      "g",
      { class: "mark", tabindex: "0", role: "button" },
      svg("rect", { class: "edge" }),
      svg("rect", { class: "line" }),
    );
  keyed(
    $("answer-boxes"),
    marks,
    (mark) => `${turn.id}-${mark.region}-${mark.number}`,
    create,
    (node, mark) => {
      const box = onScreen(mark.box);
      for (const child of node.children) set(child, rect(box, mark.inset * INSET));
      node.style.setProperty("--c", css(mark.color));
      node.style.setProperty("--on", css(mark.on));
      node.classList.toggle("dashed", mark.dash > 0);
      node.classList.toggle("lit", isLit(mark, now));
      node.dataset.entities = mark.entities.join(" ");
      node.dataset.turn = turn.id;
      const what = { turn: turn.id, entities: new Set(mark.entities) };
      const sure = mark.score === undefined ? "" : `, ${percent(mark.score)} sure`;
      set(node, {
        "aria-label": `${mark.label}: pixels ${written(mark.box)}${sure}`,
        "aria-pressed": same(pinned(), what),
      });
    },
  );
}

function drawGhosts(now) {
  const create = () => svg("g", { class: "ghost" }, svg("rect", { class: "edge" }), svg("rect", { class: "line" }));
  keyed(
    $("asked-boxes"),
    ghosts(),
    (asked) => asked.number,
    create,
    (node, asked) => {
      for (const child of node.children) set(child, rect(onScreen(asked.box)));
      node.classList.toggle("lit", Boolean(now?.asked?.has(asked.number)));
    },
  );
}

function drawOwn(now) {
  const create = () =>
    svg(
      "g",
      { class: "own", tabindex: "0", role: "button", "aria-describedby": "box-help" },
      svg("rect", { class: "hit" }),
      svg("rect", { class: "edge" }),
      svg("rect", { class: "line" }),
    );
  keyed(
    $("own-boxes"),
    state.boxes,
    (own) => own.number,
    create,
    (node, own) => {
      for (const child of node.children) set(child, rect(onScreen(own.box)));
      node.classList.toggle("selected", own.number === state.selected);
      node.classList.toggle("lit", isOwnLit(own, now));
      node.dataset.number = own.number;
      set(node, {
        "aria-label": `Box ${own.number}: pixels ${written(own.box)}`,
        "aria-pressed": own.number === state.selected,
      });
    },
  );
}

/** Labels: those of lit boxes first, then small boxes before large ones. */
function drawTags(marks, now) {
  measuring.font = `600 12px ${getComputedStyle(document.body).fontFamily}`;
  const widthOf = (text) => measuring.measureText(text).width;
  const tags = marks.map((mark) => {
    const on = isLit(mark, now);
    const score = on && mark.score !== undefined ? ` ${percent(mark.score)}` : "";
    return {
      key: `${mark.region}-${mark.number}`,
      box: onScreen(mark.box),
      text: mark.label + score,
      fill: css(mark.color),
      color: css(mark.on),
      lit: on,
    };
  });
  const user = (asked, own) => ({
    key: `${own ? "own" : "asked"}-${asked.number}`,
    box: onScreen(asked.box),
    text: `[${asked.number}]`,
    fill: "#fff",
    color: "#000",
    lit: own ? isOwnLit(asked, now) : now?.asked?.has(asked.number),
    number: own ? asked.number : null,
    must: true,
  });
  tags.push(...state.boxes.map((own) => user(own, true)), ...ghosts().map((asked) => user(asked, false)));
  for (const tag of tags) {
    const room = Math.min(Math.max(view.width / 3, tag.box[2] - tag.box[0], 140), view.width) - 2 * TAG.pad;
    tag.text = fitted(tag.text, room, widthOf);
    tag.width = Math.ceil(widthOf(tag.text)) + 2 * TAG.pad;
    tag.height = TAG.height;
    tag.must ||= tag.lit;
  }
  tags.sort((a, b) => Number(b.lit) - Number(a.lit) || area(a.box) - area(b.box));
  const placed = placeTags(
    tags.filter((tag) => tag.text),
    tags.map((tag) => tag.box),
    view,
    0.25,
  ).reverse();
  const create = () => svg("g", { class: "tag" }, svg("rect", { rx: 2 }), svg("text"));
  keyed(
    $("tags"),
    placed,
    ({ tag }) => tag.key,
    create,
    (node, { tag, left, top }) => {
      const [back, text] = node.children;
      set(node, { transform: `translate(${Math.round(left)} ${Math.round(top)})` });
      set(back, { width: tag.width, height: tag.height, fill: tag.fill });
      set(text, { x: TAG.pad, y: 14.5, fill: tag.color });
      if (text.textContent !== tag.text) text.textContent = tag.text;
      node.classList.toggle("lit", Boolean(tag.lit));
      node.classList.toggle("of-own", tag.number !== undefined && tag.number !== null);
      if (tag.number) node.dataset.number = tag.number;
    },
  );
}

function drawHandles() {
  const own = state.boxes.find((box) => box.number === state.selected);
  const box = own && onScreen(own.box);
  const shown = box
    ? HANDLES.filter((name) => name.length === 2 || Math.min(box[2] - box[0], box[3] - box[1]) > 56)
    : [];
  const create = (name) =>
    svg("g", { class: "handle", "data-handle": name }, svg("rect", { class: "hit" }), svg("rect", { class: "grip" }));
  keyed(
    $("handles"),
    shown,
    (name) => name,
    create,
    (node, name) => {
      const x = name.includes("w") ? box[0] : name.includes("e") ? box[2] : (box[0] + box[2]) / 2;
      const y = name.includes("n") ? box[1] : name.includes("s") ? box[3] : (box[1] + box[3]) / 2;
      set(node, { transform: `translate(${x} ${y})` });
    },
  );
}
