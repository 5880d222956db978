// Boxes [x1, y1, x2, y2] in pixels of a picture {width, height}: moved, resized, kept inside.

/** A box has at least this side: what is smaller cannot be hit, and [0, 0, 1, 1] would look normalized. */
const minSide = (picture) => (Math.min(picture.width, picture.height) < 32 ? 1 : 2);

export const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);

const contains = ([x1, y1, x2, y2], x, y) => x >= x1 && x <= x2 && y >= y1 && y <= y2;

const within = (value, low, high) => Math.min(Math.max(value, low), high);

/** The box between two points, in whole pixels, inside the picture. */
export function between(ax, ay, bx, by, picture) {
  const [x1, x2] = span(ax, bx, picture.width, minSide(picture));
  const [y1, y2] = span(ay, by, picture.height, minSide(picture));
  return [x1, y1, x2, y2];
}

function span(a, b, limit, side) {
  const least = Math.min(side, limit);
  const low = within(Math.round(Math.min(a, b)), 0, limit - least);
  return [low, within(Math.round(Math.max(a, b)), low + least, limit)];
}

/** Moved by whole pixels, as far as the picture goes. */
export function moved([x1, y1, x2, y2], dx, dy, picture) {
  const x = within(Math.round(dx), -x1, picture.width - x2);
  const y = within(Math.round(dy), -y1, picture.height - y2);
  return [x1 + x, y1 + y, x2 + x, y2 + y];
}

/** Resized by a handle: "n", "se", ...; a side drawn past the other one turns the box over. */
export function resized([x1, y1, x2, y2], handle, dx, dy, picture) {
  const west = handle.includes("w") ? dx : 0;
  const east = handle.includes("e") ? dx : 0;
  const north = handle.includes("n") ? dy : 0;
  const south = handle.includes("s") ? dy : 0;
  return between(x1 + west, y1 + north, x2 + east, y2 + south, picture);
}

/** Grown or shrunk at its right and lower sides, never turned over. */
export function grown([x1, y1, x2, y2], dx, dy, picture) {
  const side = minSide(picture);
  const right = within(x2 + dx, Math.min(x1 + side, picture.width), picture.width);
  const bottom = within(y2 + dy, Math.min(y1 + side, picture.height), picture.height);
  return [x1, y1, right, bottom];
}

/** A new box in the middle; each further one a little aside, so that none hides another. */
export function middle(picture, taken) {
  const most = Math.min(picture.width, picture.height) * 0.9; // no splinter in a very long picture
  const [width, height] = [picture.width, picture.height].map((side) =>
    Math.max(Math.min(side * 0.3, most), minSide(picture)),
  );
  for (let step = 0; ; step += 1) {
    const aside = (step * Math.min(picture.width, picture.height)) / 25;
    const [x, y] = [(picture.width - width) / 2 + aside, (picture.height - height) / 2 + aside];
    const box = between(x, y, x + width, y + height, picture);
    if (step > 7 || !taken.some((other) => other.every((value, side) => value === box[side]))) return box;
  }
}

/** The smallest of `items` whose box (by `boxOf`) lies under a point, or null. */
export function smallestAt(items, boxOf, x, y) {
  let best = null;
  for (const item of items) {
    if (contains(boxOf(item), x, y) && (!best || area(boxOf(item)) < area(boxOf(best)))) best = item;
  }
  return best;
}

/** "40, 30 to 120, 90", as it is told and read out. */
export const written = (box) =>
  `${Math.round(box[0])}, ${Math.round(box[1])} to ${Math.round(box[2])}, ${Math.round(box[3])}`;
