// The colours of phrases: those of groma.inference.draw, given out by the same rule.

export const PALETTE = [
  [230, 159, 0], // orange
  [0, 114, 178], // blue
  [0, 158, 115], // bluish green
  [204, 121, 167], // reddish purple
  [86, 180, 233], // sky blue
  [213, 94, 0], // vermilion
  [240, 228, 66], // yellow
  [136, 0, 255], // violet
  [0, 255, 136], // spring green
  [85, 51, 0], // brown
  [34, 34, 153], // navy
  [119, 0, 102], // plum
];

export const UNNAMED = [175, 175, 175];

export const css = ([r, g, b]) => `rgb(${r}, ${g}, ${b})`;

const folded = (phrase) => phrase.toUpperCase().toLowerCase().trim().split(/\s+/u).join(" ");

/** 0 for the first phrase, 1 for the next other one, ...; an entity without a phrase has its own. */
export function phraseNumbers(entities) {
  const numbers = new Map();
  return entities.map((entity, index) => {
    const key = folded(entity.phrase ?? "") || index;
    if (!numbers.has(key)) numbers.set(key, numbers.size);
    return numbers.get(key);
  });
}

export const colorOf = (number) => PALETTE[number % PALETTE.length];

/** Black or white, whichever has the larger contrast (WCAG 2.1) on a colour. */
export function textOn(color) {
  const [r, g, b] = color
    .map((value) => value / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  const luminance = 0.2126 * r + 0.7152 * g + 0.0722 * b;
  return (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) ? [0, 0, 0] : [255, 255, 255];
}
