// Draws the answer on the picture at the picture's own size, and saves it: as groma.inference.draw does.

import { $ } from "./dom.js";
import { UNNAMED, css, textOn } from "./colors.js";
import { area } from "./geometry.js";
import { answerMarks, fitted, placeTags } from "./marks.js";
import { ghosts, shownProposals } from "./overlay.js";
import { state, turnOnPicture } from "./state.js";

const MIN_LONG_SIDE = 640; // smaller pictures are magnified: no label could be read otherwise

/** Saves what is on the picture as a PNG; throws if the browser cannot draw so large a picture. */
export async function download() {
  const canvas = drawn($("picture"));
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  if (!blob) throw new Error("the canvas gave no picture");
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${state.picture.name.replace(/\.[^.]*$/, "") || "picture"}-groma.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

function drawn(image) {
  const { width, height } = state.picture;
  const factor = Math.max(1, MIN_LONG_SIDE / Math.max(width, height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(width * factor) || 1;
  canvas.height = Math.round(height * factor) || 1;
  const pen = canvas.getContext("2d");
  if (!pen) throw new Error("no canvas");
  pen.fillStyle = "#fff"; // as the model sees transparent pictures
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  const unit = Math.sqrt(canvas.width * canvas.height);
  const line = Math.max(3, Math.round(unit / 220));
  const marks = allMarks(canvas.width / width, canvas.height / height);
  for (const mark of marks) outline(pen, mark, line);
  labels(pen, marks, Math.max(14, Math.round(unit / 42)), canvas);
  return canvas;
}

/** Everything to be drawn, in pixels of the canvas, large boxes first. */
function allMarks(sx, sy) {
  const turn = turnOnPicture();
  const scaled = ([x1, y1, x2, y2]) => [
    Math.round(x1 * sx),
    Math.round(y1 * sy),
    Math.round(x2 * sx),
    Math.round(y2 * sy),
  ];
  const proposed = shownProposals().map((region) => ({
    box: scaled(region.box_xyxy_px),
    label: "",
    color: UNNAMED,
    on: textOn(UNNAMED),
    inset: 0,
    dash: 0,
    thin: true,
  }));
  const named = answerMarks(turn?.entities ?? []).map((mark) => ({ ...mark, box: scaled(mark.box) }));
  const pointed = [...state.boxes, ...ghosts()].map(({ number, box }) => ({
    box: scaled(box),
    label: `[${number}]`,
    color: [255, 255, 255],
    on: [0, 0, 0],
    inset: 0,
    dash: 0,
    isUser: true,
  }));
  return [...proposed, ...[...named, ...pointed].sort((a, b) => area(b.box) - area(a.box))];
}

/** The box's line, with a thin edge of the opposite brightness, so that it shows on any background. */
function outline(pen, { box, color, on, inset, dash, isUser, thin }, line) {
  const width = thin ? Math.max(1, Math.round(line / 2)) : line;
  const edge = Math.max(1, Math.floor(width / 3));
  const aside = inset * (width + edge) + width / 2;
  const [left, top, wide, high] = [
    box[0] + aside,
    box[1] + aside,
    box[2] - box[0] - 2 * aside,
    box[3] - box[1] - 2 * aside,
  ];
  const stroke = (style, size, dashes = []) => {
    pen.setLineDash(dashes);
    pen.lineWidth = size;
    pen.strokeStyle = style;
    pen.strokeRect(left, top, Math.max(wide, 1), Math.max(high, 1));
  };
  if (isUser) {
    stroke("#fff", width);
    stroke("#000", width, [3 * width, 3 * width]);
    return;
  }
  stroke(css(on), width + 2 * edge);
  stroke(css(color), width, dash ? [(2 + 4 * dash) * width, 2 * width] : []);
}

function labels(pen, marks, size, canvas) {
  pen.font = `600 ${size}px ${getComputedStyle(document.body).fontFamily}`;
  pen.textBaseline = "middle";
  pen.setLineDash([]);
  const widthOf = (text) => pen.measureText(text).width;
  const pad = Math.max(2, Math.round(size / 3));
  const height = Math.round(size * 1.5);
  const tags = marks
    .filter((mark) => mark.label)
    .sort((a, b) => area(a.box) - area(b.box))
    .map((mark) => {
      const room = Math.min(Math.max(canvas.width / 3, mark.box[2] - mark.box[0]), canvas.width) - 2 * pad;
      const text = fitted(mark.label, room, widthOf);
      return { ...mark, text, width: Math.ceil(widthOf(text)) + 2 * pad, height };
    });
  const boxes = marks.filter((mark) => mark.label).map((mark) => mark.box);
  for (const { tag, left, top } of placeTags(
    tags.filter((tag) => tag.text),
    boxes,
    canvas,
  )) {
    pen.fillStyle = css(tag.color);
    pen.fillRect(left, top, tag.width, tag.height);
    if (tag.isUser) {
      pen.lineWidth = 1;
      pen.strokeStyle = "#000";
      pen.strokeRect(left + 0.5, top + 0.5, tag.width - 1, tag.height - 1);
    }
    pen.fillStyle = css(tag.on);
    pen.fillText(tag.text, left + pad, top + height / 2 + 1);
  }
}
