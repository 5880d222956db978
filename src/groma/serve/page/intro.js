// What stands in the log before the first question: how it works, then questions to begin with.

import { $, el } from "./dom.js";
import { css, colorOf, textOn } from "./colors.js";
import { sendText } from "./composer.js";
import { on, state } from "./state.js";

export function startIntro() {
  on("picture boxes turns", write);
  write();
}

let written = "";

function write() {
  $("intro").hidden = state.turns.length > 0;
  const numbers = state.boxes.slice(0, 2).map((own) => own.number);
  const now = JSON.stringify([Boolean(state.picture), state.picture?.id, numbers]);
  if (now === written) return;
  written = now;
  $("intro").replaceChildren(...(state.picture ? suggestions(numbers) : welcome()));
}

function welcome() {
  const phrase = (text, number) => {
    const node = el("span", { class: "phrase short" }, text);
    node.style.setProperty("--c", css(colorOf(number)));
    node.style.setProperty("--on", css(textOn(colorOf(number))));
    return node;
  };
  const step = (title, ...text) => el("li", {}, el("b", {}, title), el("p", {}, ...text));
  return [
    el("p", { class: "lead" }, "Answers that point."),
    el(
      "ol",
      { class: "steps" },
      step(
        "Ask about a picture.",
        "Phrases of the answer are tied to regions: ",
        phrase("a red key", 5),
        " lies on ",
        phrase("a banana", 0),
        ". Point at one, and the other lights up.",
      ),
      step(
        "Point at regions.",
        "Draw boxes and call them ",
        el("span", { class: "named" }, "[1]"),
        " and ",
        el("span", { class: "named" }, "[2]"),
        " in a question.",
      ),
      step(
        "Go on.",
        "Each question sees what was said before. Click an earlier answer to see it on the picture again.",
      ),
    ),
  ];
}

function suggestions(numbers) {
  const [first, second] = numbers;
  const example = state.config.examples.find(({ name }) => name === state.picture.name)?.question;
  const texts = new Set([example ?? "Describe the image in detail.", "What is in the picture?"]);
  const items = [...texts].map((text) => ({ text }));
  if (first) items.unshift({ text: `What is [${first}]?` });
  if (second) items.unshift({ text: `Which is larger, [${first}] or [${second}]?`, grounded: false });
  const button = ({ text, grounded }) => {
    const send = () => sendText(text, { grounded, whole: !text.includes("[") });
    return el("li", {}, el("button", { type: "button", class: "suggestion", click: send }, text));
  };
  return [
    el("p", { class: "lead" }, first ? "Ask about your boxes." : "Ask about this picture."),
    el("ul", { class: "suggestions", "aria-label": "Questions to begin with" }, ...items.slice(0, 3).map(button)),
  ];
}
