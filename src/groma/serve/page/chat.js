// The log of questions and answers. Pointing at a phrase lights its regions; clicking an answer puts it on the picture.

import { $, announce, el, hasKeyFocus, icon, keyed, set, toast } from "./dom.js";
import { again, answerOf, forget } from "./conversation.js";
import { copyText } from "./clipboard.js";
import { editQuestion, focusComposer } from "./composer.js";
import { described, writePhrases } from "./phrases.js";
import { pieces } from "./question.js";
import { written } from "./geometry.js";
import { bringIntoView, stacked } from "./stage.js";
import { changed, light, lit, on, pinned, same, state, turnOf } from "./state.js";

let isAtEnd = true;

export function startChat() {
  const log = $("log");
  on("turns shown busy", () => {
    if (!waiting) waiting = requestAnimationFrame(write);
  });
  on("lit", paint);
  log.addEventListener(
    "pointerover",
    (event) => event.pointerType === "mouse" && light("pointer", under(event.target)),
  );
  log.addEventListener("pointerleave", () => light("pointer", null));
  log.addEventListener("focusin", (event) => {
    const what = under(event.target);
    if (what) lookAt(what);
    light("focus", what);
  });
  log.addEventListener("focusout", () => light("focus", null));
  log.addEventListener("click", clicked);
  log.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    if (!event.target.matches(".phrase, .named")) return;
    event.preventDefault();
    pin(under(event.target));
  });
  for (const scroller of [log, document]) {
    scroller.addEventListener(
      "scroll",
      () => {
        isAtEnd = farFromEnd() < 60;
      },
      { passive: true },
    );
  }
  const observer = new ResizeObserver(() => isAtEnd && toEnd()); // chips take room from the log
  for (const node of [log, $("composer")]) observer.observe(node);
}

/** Scrolls to a phrase of a turn. */
export function showPhrase(turn, entity) {
  const node = document.querySelector(`[data-turn="${turn}"] .phrase[data-entity="${entity}"]`);
  node?.scrollIntoView({ block: "nearest" });
}

const scroller = () => (stacked.matches ? document.scrollingElement : $("log"));

function farFromEnd() {
  const { scrollHeight, scrollTop, clientHeight } = scroller();
  return scrollHeight - scrollTop - clientHeight;
}

function toEnd() {
  if (!state.turns.length) return;
  scroller().scrollTop = scroller().scrollHeight;
  isAtEnd = true;
}

/** Puts a turn's answer on the picture. */
function show(id) {
  if (state.shown === id) return;
  state.shown = id;
  changed("shown");
}

/** What lies under a node: a phrase, or a box that a question names. */
function under(node) {
  const part = node.closest(".phrase, .named");
  if (!part) return null;
  const turn = Number(part.closest("[data-turn]").dataset.turn);
  if (part.matches(".phrase")) return { turn, entities: new Set([Number(part.dataset.entity)]) };
  return { turn, asked: new Set([Number(part.dataset.number)]) };
}

function clicked(event) {
  if (event.target.closest("button")) return;
  const what = under(event.target);
  const turn = Number(event.target.closest("[data-turn]")?.dataset.turn);
  if (what) pin(what);
  else if (turn && getSelection().isCollapsed) {
    light("pin", null);
    show(turn);
  }
}

/** Brings to view what a phrase or a number means. */
function lookAt(what) {
  show(what.turn);
  const { entities, boxes } = turnOf(what.turn);
  const [entity] = what.entities ?? [];
  bringIntoView(entities[entity]?.boxes_xyxy_px?.[0] ?? boxes.find((own) => what.asked?.has(own.number))?.box);
}

function pin(what) {
  lookAt(what);
  light("pin", same(pinned(), what) ? null : what);
}

let waiting = 0;
let length = 0; // turns that were written
const writtenFrom = new WeakMap(); // node of a turn -> what it was written from

function write() {
  waiting = 0;
  const goes = isAtEnd || state.turns.length > length; // a new question is always shown
  length = state.turns.length;
  keyed($("turns"), state.turns, (turn) => turn.id, create, update);
  if (goes) toEnd();
}

function create(turn) {
  const button = (name, label, act) =>
    el(
      "button",
      { type: "button", class: "quiet small", click: () => act(turnOf(turn.id)) },
      icon(name),
      el("span", {}, label),
    );
  const showing = button("show", "Show on picture", (it) => show(it.id));
  showing.classList.add("show");
  const tools = el(
    "div",
    { class: "foot", role: "group", "aria-label": "For this answer" },
    showing,
    button("copy", "Copy text", copyAnswer),
    button("json", "Copy JSON", copyJson),
  );
  const repairs = el(
    "div",
    { class: "repairs" },
    button("again", "Try again", retry),
    button("edit", "Edit question", edit),
  );
  return el(
    "article",
    { class: "turn", "data-turn": turn.id },
    el("p", { class: "asked" }, el("span", { class: "no", "aria-hidden": "true" }), el("span", { class: "words" })),
    el(
      "div",
      { class: "answer" },
      el("p", { class: "text", dir: "auto" }),
      el("p", { class: "state" }),
      el("p", { class: "error", role: "alert" }),
      repairs,
      tools,
      el("div", { class: "descriptions", hidden: true }),
    ),
  );
}

function update(node, turn) {
  const now = JSON.stringify([
    state.turns.indexOf(turn),
    state.turns.length,
    state.shown === turn.id,
    state.busy,
    turn.status,
    turn.wait,
    turn.error,
    turn.warning,
    turn.text.length,
    turn.entities.length,
    Boolean(turn.grounding),
  ]);
  if (writtenFrom.get(node) === now) return; // a long conversation is not written anew with every word
  writtenFrom.set(node, now);
  const find = (name) => node.querySelector(name);
  const number = state.turns.indexOf(turn) + 1;
  const isShown = state.shown === turn.id;
  const hasText = turn.text !== "";
  const isOver = ["done", "stopped", "failed"].includes(turn.status);
  set(node, { "aria-label": `Question ${number}`, "data-status": turn.status });
  find(".no").textContent = number;
  node.classList.toggle("shown", isShown);
  writeQuestion(find(".words"), turn);
  const prefix = `phrase-${turn.id}-`;
  keyed(
    find(".descriptions"),
    turn.entities.map((entity, index) => ({ entity, index })),
    ({ index }) => index,
    ({ index }) => el("span", { id: prefix + index }),
    (span, { entity }) => {
      span.textContent = described(entity);
    },
  );
  writePhrases(find(".text"), turn.text, turn.entities, (index) => prefix + index);
  find(".text").hidden = !hasText && !turn.entities.length;
  find(".state").textContent = stateOf(turn);
  find(".error").textContent = turn.error ?? "";
  find(".repairs").hidden = !(
    (turn.status === "failed" || turn.status === "stopped") &&
    turn === state.turns.at(-1) &&
    !state.busy
  );
  find(".foot").hidden = !(isOver && hasText);
  set(find(".show"), { "aria-pressed": isShown });
  find(".show span").textContent = isShown ? "On the picture" : "Show on picture";
  paintTurn(node, turn.id);
}

/** The question with its boxes as chips; done once, as a question does not change. */
function writeQuestion(node, turn) {
  if (node.childNodes.length) return;
  const numbers = turn.boxes.map((own) => own.number);
  const parts = pieces(turn.question, numbers);
  if (turn.implied) parts.push(" ", ...numbers);
  node.append(...parts.map((part) => (typeof part === "string" ? part : named(turn, part))));
}

function named(turn, number) {
  const { box } = turn.boxes.find((own) => own.number === number);
  const label = `Box ${number}: pixels ${written(box)}`;
  return el(
    "span",
    { class: "named", role: "button", tabindex: "0", "data-number": number, "aria-label": label },
    `[${number}]`,
  );
}

function stateOf(turn) {
  if (turn.status === "waiting") return "Looking…";
  if (turn.status === "queued") return `The server is busy. Trying again in ${turn.wait} s…`;
  if (turn.status === "stopped") return turn.text ? "Stopped." : "Stopped before the answer began.";
  if (turn.status === "done" && turn.finish === "length") return "Cut: the answer reached its longest length.";
  if (turn.status === "done" && !turn.text) return "The answer is empty.";
  return turn.warning ?? "";
}

function paint() {
  for (const node of $("turns").children) paintTurn(node, Number(node.dataset.turn));
}

function paintTurn(node, id) {
  const now = lit();
  const isHere = now?.turn === id;
  const isPinnedHere = pinned()?.turn === id;
  for (const part of node.querySelectorAll(".phrase, .named")) {
    const { entity, number } = part.dataset;
    const isLit = isHere && (entity ? now.entities?.has(Number(entity)) : now.asked?.has(Number(number)));
    part.classList.toggle("lit", Boolean(isLit));
    set(part, { "aria-pressed": isPinnedHere && same(pinned(), under(part)) });
  }
}

async function copyAnswer(turn) {
  tell(await copyText(turn.text), "Text copied.");
}

/** The answer as JSON: its message as it can be sent back, and what was asked. */
async function copyJson(turn) {
  const { question, grounded, boxes } = turn;
  const regions = boxes.map(({ number, box }) => ({ number, box_xyxy_px: box }));
  const whole = {
    model: state.config.model,
    picture: state.picture.name,
    question,
    regions,
    grounded,
    message: answerOf(turn),
  };
  tell(await copyText(JSON.stringify(whole, null, 2)), "JSON copied.");
}

function tell(isDone, text) {
  toast(isDone ? text : "The browser does not allow copying here.");
  announce(isDone ? text : "");
}

function retry(turn) {
  const byKey = hasKeyFocus($("turns")); // its button goes
  again(turn);
  if (byKey) focusComposer();
}

function edit(turn) {
  forget(turn);
  editQuestion(turn);
}
