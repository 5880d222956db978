// How a question names boxes, [1], [2], ..., and what of it is sent (the rules of groma.inference.request).

const NAMED = /\[\[(\d+)\]\]|\[(\d+)\]/g; // [[1]] is text that reads [1]

/** The numbers that a text names, each once, in the order of the text. */
export function namedIn(text) {
  return [...new Set([...text.matchAll(NAMED)].filter((match) => match[2]).map((match) => Number(match[2])))];
}

/** A text cut into strings and box numbers, for numbers among `numbers`. */
export function pieces(text, numbers) {
  const found = [];
  let at = 0;
  for (const match of text.matchAll(NAMED)) {
    if (!match[2] || !numbers.includes(Number(match[2]))) continue;
    found.push(text.slice(at, match.index), Number(match[2]));
    at = match.index + match[0].length;
  }
  found.push(text.slice(at));
  return found.filter((piece) => piece !== "");
}

const MOST_NAMED = 6; // in a sentence for the reader

const list = (numbers) => {
  const names = numbers.slice(0, MOST_NAMED).map((number) => `[${number}]`);
  if (numbers.length > MOST_NAMED) names.push(`${numbers.length - MOST_NAMED} more`);
  return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
};

/**
 * Which boxes go along with a question.
 *
 * The named ones. If none is named: a single fresh box (drawn or changed since the last question) goes along, as the
 * server takes one box unnamed; of several fresh ones the reader has to say which.
 *
 * Returns {boxes, implied} with the boxes that go along and whether unnamed, or {boxes: [], problem, choices}.
 */
export function going(text, boxes) {
  const named = namedIn(text);
  const unknown = named.filter((number) => !boxes.some((box) => box.number === number));
  if (unknown.length) {
    const plain = unknown.length === 1 ? `, or write [[${unknown[0]}]] to say it as text` : "";
    return { boxes: [], problem: `There is no box ${list(unknown)} on the picture: draw it${plain}.`, choices: [] };
  }
  if (named.length) {
    return { boxes: boxes.filter((box) => named.includes(box.number)), implied: false };
  }
  const fresh = boxes.filter((box) => box.fresh);
  if (fresh.length < 2) return { boxes: fresh, implied: fresh.length === 1 };
  const numbers = fresh.map((box) => box.number);
  const problem = `Which boxes do you mean? The question names none of ${list(numbers)}.`;
  return { boxes: [], problem, choices: numbers };
}

/** The text as the server wants it: its boxes counted from 1 in the order in which they are sent. */
export function renumbered(text, boxes) {
  if (!boxes.length) return text.replace(NAMED, (whole, escaped) => (escaped ? `[${escaped}]` : whole)); // all is text
  const order = new Map(boxes.map((box, index) => [box.number, index + 1]));
  return text.replace(NAMED, (whole, escaped, number) => (number ? `[${order.get(Number(number))}]` : whole));
}

/** One line under the question that says what is sent. */
export function hintFor(text, boxes) {
  if (!text.trim()) return "";
  const plan = going(text, boxes);
  if (plan.problem) return plan.choices.length ? `Name the boxes that you mean: ${list(plan.choices)}.` : plan.problem;
  if (!boxes.length) return "";
  if (!plan.boxes.length) return "Asks about the whole picture.";
  return `Asks about ${list(plan.boxes.map((box) => box.number))}.`;
}
