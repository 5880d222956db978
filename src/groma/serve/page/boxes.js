// The reader's boxes: added, changed, removed. Numbers stay with their boxes; a new box takes the lowest free one.

import { announce, toast } from "./dom.js";
import { middle, written } from "./geometry.js";
import { boxOf, changed, state } from "./state.js";

/** Adds a box and selects it; returns it, or null if there are too many. */
export function addBox(box) {
  const limit = state.config.max_regions;
  if (state.boxes.length >= limit) {
    toast(`At most ${limit} boxes fit: remove one first.`);
    return null;
  }
  let number = 1;
  while (boxOf(number)) number += 1;
  const added = { number, box, fresh: true };
  state.boxes = [...state.boxes, added].sort((a, b) => a.number - b.number);
  state.selected = number;
  changed("boxes");
  announce(`Box ${number} added: ${written(box)}.`);
  return added;
}

export function addInTheMiddle() {
  return (
    state.picture &&
    addBox(
      middle(
        state.picture,
        state.boxes.map((own) => own.box),
      ),
    )
  );
}

export function changeBox(number, box) {
  const own = boxOf(number);
  if (!own || own.box.every((value, side) => value === box[side])) return;
  own.box = box;
  own.fresh = true;
  changed("boxes");
  announce(`Box ${number}: ${written(box)}.`, 400);
}

export function removeBox(number) {
  state.boxes = state.boxes.filter((own) => own.number !== number);
  if (state.selected === number) state.selected = null;
  changed("boxes");
  announce(`Box ${number} removed.`);
}

export function selectBox(number) {
  if (state.selected === number) return;
  state.selected = number;
  changed("boxes");
}
