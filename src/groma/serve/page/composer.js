// The field for the question: boxes to name in it, the switch for grounding, Send and Stop.

import { $, announce, el, focusInPlace, hasKeyFocus, icon, keyed, set } from "./dom.js";
import { ask, stop } from "./conversation.js";
import { removeAndFocus } from "./edit.js";
import { written } from "./geometry.js";
import { selectBox } from "./boxes.js";
import { going, hintFor, namedIn } from "./question.js";
import { boxOf, changed, light, on, state } from "./state.js";

const BUSY = "An answer is being written. Escape stops it.";
const coarse = matchMedia("(pointer: coarse)"); // where focus brings up a keyboard

let isHeld = false; // the reader wanted to send while an answer was being written
let prefilled = "";

export function startComposer() {
  const field = $("question");
  $("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    if (state.busy) stop();
    else send();
  });
  field.addEventListener("keydown", keys);
  field.addEventListener("input", typed);
  $("chips").addEventListener("pointerover", (event) => {
    const number = Number(event.target.closest(".chip")?.dataset.number);
    light("pointer", number ? { own: number } : null);
  });
  $("chips").addEventListener("pointerleave", () => light("pointer", null));
  on("boxes picture", () => {
    tellProblem(null);
    write();
  });
  on("busy", () => {
    isHeld = false;
    write();
  });
  write();
}

function keys(event) {
  if (event.isComposing) return;
  if (event.key === "Escape" && state.busy) stop();
  if (event.key !== "Enter" || event.shiftKey) return;
  event.preventDefault();
  if (!state.busy) return send();
  isHeld = true;
  write();
  announce(BUSY);
}

/** The focus goes to the field, or elsewhere if that would bring up a keyboard. */
export function focusComposer(elsewhere = $("send")) {
  focusInPlace(coarse.matches ? elsewhere : $("question"));
}

/** Puts an example's question into the field, or takes the last one out; what the reader wrote stays. */
export function prefill(text) {
  const field = $("question");
  if (field.value && field.value !== prefilled) return;
  prefilled = field.value = text;
  typed();
}

/** Writes [number] where the cursor is; with `again` false only if it is not there already. */
export function nameInQuestion(number, { focus = true, again = true } = {}) {
  const field = $("question");
  if (again || !namedIn(field.value).includes(number)) {
    const [start, end] = [field.selectionStart, field.selectionEnd];
    const before = /[^\s([]$/u.test(field.value.slice(0, start)) ? " " : "";
    const after = /^[\p{L}\p{N}[]/u.test(field.value.slice(end)) ? " " : "";
    field.setRangeText(`${before}[${number}]${after}`, start, end, "end");
    typed();
  }
  if (focus) focusInPlace(field);
}

/** Sends a text as if it had been written into the field; `whole`: it is about no box. */
export function sendText(text, { grounded, whole }) {
  const byKey = hasKeyFocus($("intro")); // which goes with the first question
  $("question").value = text;
  typed();
  send({ grounded, whole });
  if (byKey) focusComposer();
}

/** Puts a question back into the field, with the boxes it was about. */
export function editQuestion(turn) {
  $("question").value = turn.question;
  if (turn.implied) for (const { number } of turn.boxes) if (boxOf(number)) boxOf(number).fresh = true;
  changed("boxes");
  typed();
  focusInPlace($("question"));
}

function emptyQuestion() {
  $("question").value = prefilled = "";
  typed();
}

function typed() {
  const field = $("question");
  field.style.height = "auto";
  field.style.height = `${Math.min(field.scrollHeight + 2, 180)}px`;
  isHeld = false;
  tellProblem(null);
  write();
}

function send({ whole = false, grounded = $("grounded").checked } = {}) {
  const question = $("question").value.trim();
  if (!state.picture) return tellProblem("First choose a picture.");
  if (!question) return tellProblem("First write a question.");
  const plan = whole ? { boxes: [], implied: false } : going(question, state.boxes);
  if (plan.problem) return tellProblem(plan.problem, plan.choices);
  if (plan.boxes.length > state.config.max_regions)
    return tellProblem(`A question can name at most ${state.config.max_regions} boxes.`);
  emptyQuestion();
  selectBox(null);
  if (coarse.matches) $("question").blur(); // puts the keyboard away
  return ask({ question, ...plan, grounded });
}

/** A sentence above the field, with buttons if boxes can be chosen; null takes it away. */
function tellProblem(text, choices = []) {
  const notice = $("notice");
  notice.hidden = !text;
  if (!text) return notice.replaceChildren();
  writeHint();
  const button = (label, act) => el("button", { type: "button", class: "small", click: act }, label);
  const buttons = choices.slice(0, 6).map((number) => button(`[${number}]`, () => nameInQuestion(number)));
  if (choices.length) buttons.push(button("The whole picture", () => send({ whole: true })));
  return notice.replaceChildren(el("p", {}, text), ...buttons);
}

function write() {
  const text = $("question").value;
  const plan = going(text, state.boxes);
  const sent = new Set(text.trim() ? plan.boxes.map((own) => own.number) : []);
  $("chips").hidden = !state.boxes.length;
  keyed(
    $("chips"),
    state.boxes,
    (own) => own.number,
    chip,
    (node, own) => {
      node.classList.toggle("going", sent.has(own.number));
      set(node.firstChild, { title: `Box ${own.number}: ${written(own.box)}` });
    },
  );
  writeHint();
  const first = state.boxes.find((own) => own.fresh)?.number;
  $("question").placeholder =
    !state.picture || !first ? "Ask about the picture" : `Ask about [${first}] or the picture`;
  const label = state.busy ? "Stop" : "Send";
  if ($("send").getAttribute("aria-label") !== label) {
    set($("send"), { "aria-label": label, title: label });
    $("send").replaceChildren(icon(state.busy ? "stop" : "send"));
  }
}

function writeHint() {
  const text = $("question").value;
  const saysSame = !$("notice").hidden; // the notice does
  $("hint").textContent = isHeld ? BUSY : saysSame ? "" : hintFor(text, state.boxes);
  if ($("hint").textContent && !isHeld && going(text, state.boxes).implied)
    $("hint").append(" ", el("button", { type: "button", class: "link", click: leaveOut }, "Leave it out"));
}

function chip({ number }) {
  const name = () => {
    nameInQuestion(number, { focus: !coarse.matches });
    selectBox(number);
  };
  return el(
    "span",
    { class: "chip", "data-number": number },
    el(
      "button",
      { type: "button", class: "name", "aria-label": `Put [${number}] into the question`, click: name },
      `[${number}]`,
    ),
    el(
      "button",
      {
        type: "button",
        class: "remove",
        "aria-label": `Remove box ${number}`,
        title: `Remove box ${number}`,
        click: () => removeAndFocus(number),
      },
      icon("close"),
    ),
  );
}

/** The lone fresh box does not go along with this question. */
function leaveOut() {
  for (const own of state.boxes) own.fresh = false;
  changed("boxes");
  focusInPlace($("question"));
}
