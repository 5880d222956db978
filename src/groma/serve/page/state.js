// What the page knows, in one place, and who wants to hear when it changes.

export const state = {
  config: { model: "", key_needed: false, max_upload_bytes: Infinity, max_regions: 100, examples: [] },
  picture: null, // see picture.js
  boxes: [], // the reader's: {number, box: [x1, y1, x2, y2] in pixels, fresh: not asked about yet}
  selected: null, // number of the box that has handles
  turns: [], // see conversation.js
  shown: null, // id of the turn whose answer is on the picture
  proposals: { on: false, min: 0.3, list: null },
  busy: false, // an answer is being written
};

const listeners = new Map();

/** Calls `listener` after `changed(topic)`; topics: picture, boxes, turns, shown, lit, proposals, busy. */
export function on(topics, listener) {
  for (const topic of topics.split(" ")) {
    if (!listeners.has(topic)) listeners.set(topic, new Set());
    listeners.get(topic).add(listener);
  }
}

/** Tells everybody who listens to one of the topics, once each. */
export function changed(...topics) {
  const calls = new Set(topics.flatMap((topic) => [...(listeners.get(topic) ?? [])]));
  for (const call of calls) call();
}

// What is lit up: by the pointer, by the keyboard's focus, or pinned by a click; the first of them counts. A click ends
// what the focus lit: it may stay on a phrase while another one's region is clicked.
// {turn: id, entities: Set of indices, asked: Set of box numbers of that turn} or {own: box number}.
const lights = { pointer: null, focus: null, pin: null };

/** What is lit up now, or null. */
export const lit = () => lights.pointer ?? lights.focus ?? lights.pin;

export const pinned = () => lights.pin;

export function light(by, what) {
  if (by === "pin" && lights.focus) lights.focus = null;
  else if (same(lights[by], what)) return;
  lights[by] = what;
  changed("lit");
}

/** Whether both light up the same. */
export function same(a, b) {
  const written = (what) =>
    what && JSON.stringify([what.turn, [...(what.entities ?? [])], [...(what.asked ?? [])], what.own]);
  return written(a) === written(b);
}

export function darken() {
  lights.pointer = lights.focus = lights.pin = null;
  changed("lit");
}

export const turnOf = (id) => state.turns.find((turn) => turn.id === id) ?? null;

/** The turn on the picture: the one whose phrase is pointed at, else the chosen one. */
export function turnOnPicture() {
  const now = lit();
  return turnOf(now?.turn ?? state.shown) ?? turnOf(state.shown);
}

export const boxOf = (number) => state.boxes.find((box) => box.number === number) ?? null;
