// Boxes drawn, moved and resized with mouse, finger or keys; and what is under the pointer lights up.

import { $, focusInPlace, set } from "./dom.js";
import { addBox, addInTheMiddle, changeBox, removeBox, selectBox } from "./boxes.js";
import { between, grown, moved, resized, smallestAt } from "./geometry.js";
import { boxOf, light, pinned, same, state, turnOnPicture } from "./state.js";
import { bringIntoView, inPicture, onScreen, showPointer, view } from "./stage.js";
import { shownMarks, shownProposals } from "./overlay.js";

const CLICK = 4; // a pointer that moved less far, in CSS pixels, clicked

let gesture = null; // {kind: draw | move | resize, from, at, box, number, handle, isDrag}
let hooks = { nameInQuestion() {}, showPhrase() {} };

/** `nameInQuestion(number, {focus, again})` writes [number]; `showPhrase(turn, entity)` scrolls to a phrase. */
export function startEditing(given) {
  hooks = given;
  const overlay = $("overlay");
  overlay.addEventListener("pointerdown", down);
  overlay.addEventListener("pointermove", move);
  overlay.addEventListener("pointerup", up);
  overlay.addEventListener("pointercancel", cancel);
  overlay.addEventListener("pointerleave", leave);
  overlay.addEventListener("mousedown", (event) => event.preventDefault()); // focus goes where we say
  overlay.addEventListener("click", assisted);
  const canvas = $("canvas"); // an SVG that listens to keys or focus is a stop of the Tab key
  canvas.addEventListener("keydown", keys);
  canvas.addEventListener("focusin", (event) => focused(event.target));
  canvas.addEventListener("focusout", () => light("focus", null));
  document.addEventListener("keydown", shortcuts);
}

/** Escape anywhere; B at the picture or where nothing has the focus, as elsewhere it may mean something else. */
function shortcuts(event) {
  if (event.key === "Escape") escape();
  const isHere = event.target === document.body || $("plate").contains(event.target);
  const isModified = event.ctrlKey || event.metaKey || event.altKey;
  if (event.key.toLowerCase() !== "b" || isModified || event.repeat || !isHere || !state.picture) return;
  event.preventDefault();
  addAndFocus();
}

/** Puts a box into the middle and the focus on it. */
export function addAndFocus() {
  const own = addInTheMiddle();
  if (own) focusBox(own.number);
}

/** Overlay nodes are drawn with the next frame; the focus waits for it. */
function focusBox(number) {
  requestAnimationFrame(() =>
    requestAnimationFrame(() => {
      const node = document.querySelector(`.own[data-number="${number}"]`);
      node?.focus({ preventScroll: true });
      bringIntoView(boxOf(number)?.box);
    }),
  );
}

function down(event) {
  if (event.button !== 0 || gesture) return;
  const at = inPicture(event);
  const handle = event.target.closest("[data-handle]")?.dataset.handle;
  const number = Number(event.target.closest(".own, .of-own")?.dataset.number) || null;
  const base = { from: at, at, screen: [event.clientX, event.clientY], pointer: event.pointerId, isDrag: false };
  if (handle) gesture = { ...base, kind: "resize", handle, number: state.selected };
  else if (number && !event.shiftKey) gesture = { ...base, kind: "move", number };
  else gesture = { ...base, kind: "draw" };
  gesture.box = boxOf(gesture.number)?.box ?? null;
  $("overlay").setPointerCapture(event.pointerId);
  light("pointer", null);
}

function move(event) {
  if (!state.picture) return;
  const [x, y] = inPicture(event);
  if (!gesture) {
    if (event.pointerType === "touch") return;
    showPointer(x, y);
    hover(x, y, event.target);
    return;
  }
  if (event.pointerId !== gesture.pointer) return;
  if (!gesture.isDrag) {
    gesture.isDrag = Math.hypot(event.clientX - gesture.screen[0], event.clientY - gesture.screen[1]) > CLICK;
    if (!gesture.isDrag) return;
    light("pin", null); // nothing else asks for attention now
  }
  gesture.at = [x, y];
  const [dx, dy] = [x - gesture.from[0], y - gesture.from[1]];
  let box = null;
  if (gesture.kind === "draw") {
    box = between(gesture.from[0], gesture.from[1], x, y, state.picture);
    const [left, top, right, bottom] = onScreen(box);
    set($("drawing"), { x: left, y: top, width: right - left, height: bottom - top, visibility: "visible" });
  } else if (gesture.box) {
    box =
      gesture.kind === "move"
        ? moved(gesture.box, dx, dy, state.picture)
        : resized(gesture.box, gesture.handle, dx, dy, state.picture);
    selectBox(gesture.number);
    changeBox(gesture.number, box);
  }
  showPointer(x, y, box);
}

function up(event) {
  if (!gesture || event.pointerId !== gesture.pointer) return;
  const done = finish();
  const [x, y] = inPicture(event);
  if (done.kind === "draw" && done.isDrag) {
    const own = addBox(between(done.from[0], done.from[1], x, y, state.picture));
    if (own) focusBox(own.number);
  } else if (done.isDrag) {
    focusBox(done.number);
  } else {
    click(done.number, x, y);
  }
}

function cancel() {
  if (!gesture) return;
  const done = finish();
  if (done.box) changeBox(done.number, done.box);
}

function finish() {
  const done = gesture;
  gesture = null;
  set($("drawing"), { visibility: "hidden" });
  showPointer(null, null);
  return done;
}

function leave() {
  if (gesture) return;
  showPointer(null, null);
  light("pointer", null);
}

/** A click names a box in the question, pins a phrase's regions, or makes a proposal a box; the smallest counts. */
function click(number, x, y) {
  const near = view.scale > 0 ? 3 / view.scale : 0; // a thin box can be hit as well
  const wide = ([x1, y1, x2, y2]) => [x1 - near, y1 - near, x2 + near, y2 + near];
  const items = [
    ...state.boxes.map((own) => ({ own: own.number, box: own.box })),
    ...shownMarks().map((mark) => ({ mark, box: mark.box })),
    ...shownProposals().map((region) => ({ region, box: region.box_xyxy_px })),
  ];
  const item = number ? { own: number } : smallestAt(items, (it) => wide(it.box), x, y);
  selectBox(item?.own ?? null);
  if (item?.own) {
    hooks.nameInQuestion(item.own, { focus: false, again: false });
    focusBox(item.own);
  } else if (item?.mark) {
    pinMark(item.mark.entities);
  } else if (item?.region) {
    const own = addBox(between(...item.region.box_xyxy_px, state.picture));
    if (own) focusBox(own.number);
  } else {
    light("pin", null);
    if ($("overlay").contains(document.activeElement)) document.activeElement.blur();
  }
}

/** Keeps an answer's region lit; once more lets it go. */
function pinMark(entities) {
  const what = { turn: turnOnPicture().id, entities: new Set(entities) };
  const isPinned = same(pinned(), what);
  light("pin", isPinned ? null : what);
  if (!isPinned) hooks.showPhrase(what.turn, entities[0]);
}

function hover(x, y, target) {
  if (target.closest("[data-handle]")) return light("pointer", null);
  const marks = shownMarks();
  const items = [...marks, ...state.boxes];
  const found = smallestAt(items, (item) => item.box, x, y);
  if (!found) return light("pointer", null);
  if (found.entities) {
    const entities = marks.filter((mark) => mark.region === found.region).flatMap((mark) => mark.entities);
    return light("pointer", { turn: turnOnPicture().id, entities: new Set(entities) });
  }
  return light("pointer", { own: found.number });
}

function focused(node) {
  if (node.matches(".own")) {
    selectBox(Number(node.dataset.number));
    if (node.matches(":focus-visible")) light("focus", { own: Number(node.dataset.number) });
  } else if (node.matches(".mark")) {
    light("focus", {
      turn: Number(node.dataset.turn),
      entities: new Set(node.dataset.entities.split(" ").map(Number)),
    });
  }
}

function keys(event) {
  const node = event.target;
  const isPress = event.key === "Enter" || event.key === " ";
  if (node.matches(".mark") && isPress) {
    event.preventDefault();
    pinMark(node.dataset.entities.split(" ").map(Number));
  }
  if (!node.matches(".own")) return;
  const own = boxOf(Number(node.dataset.number));
  if (isPress) {
    event.preventDefault();
    hooks.nameInQuestion(own.number, { focus: true, again: true });
  } else if (event.key === "Delete" || event.key === "Backspace") {
    event.preventDefault();
    removeAndFocus(own.number);
  } else {
    arrows(event, own);
  }
}

/** A press without a pointer, as screen readers send it. */
function assisted(event) {
  if (event.detail !== 0) return;
  const node = event.target.closest(".mark, .own");
  if (node?.matches(".mark")) pinMark(node.dataset.entities.split(" ").map(Number));
  else if (node) hooks.nameInQuestion(Number(node.dataset.number), { focus: true, again: true });
}

function arrows(event, own) {
  const step = event.altKey ? 1 : Math.max(1, Math.round(Math.max(state.picture.width, state.picture.height) / 64));
  const way = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
  if (!way || event.ctrlKey || event.metaKey) return;
  event.preventDefault(); // Alt and an arrow would leave the page
  const change = event.shiftKey ? grown : moved;
  changeBox(own.number, change(own.box, ...way, state.picture));
  bringIntoView(own.box);
}

/** Removes a box; the focus goes to the next one, else to where boxes come from. */
export function removeAndFocus(number) {
  removeBox(number);
  const next = state.boxes.find((own) => own.number > number) ?? state.boxes.at(-1);
  if (next) focusBox(next.number);
  else focusInPlace($("add-box"));
}

function escape() {
  if (gesture) return cancel();
  light("pin", null);
  selectBox(null); // a focused box keeps the focus
}
