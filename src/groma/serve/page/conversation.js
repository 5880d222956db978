// The conversation: what is sent, what comes back, and what is done when it does not.

import { ServerError, streamAnswer } from "./api.js";
import { announce } from "./dom.js";
import { renumbered } from "./question.js";
import { changed, darken, state } from "./state.js";

const TRIES = 5; // at a busy server
const LONGEST_WAIT = 30; // seconds that are waited unasked

const UNANSWERED = {
  status: "waiting",
  wait: 0,
  text: "",
  entities: [],
  grounding: null,
  finish: null,
  error: null,
  warning: null,
};

let count = 0;
let stopper = null;

/**
 * Asks a question about the picture.
 *
 * A turn is {id, question, boxes: [{number, box}] as the reader numbers them, implied, grounded, status, wait, text,
 * entities, grounding, finish, error, warning}; status: waiting, queued, streaming, done, stopped, failed.
 */
export function ask({ question, boxes, implied, grounded }) {
  count += 1;
  const kept = boxes.map(({ number, box }) => ({ number, box: [...box] }));
  const turn = { id: count, question, boxes: kept, implied, grounded, ...UNANSWERED };
  state.turns.push(turn);
  for (const own of state.boxes) own.fresh = false;
  changed("boxes");
  return run(turn);
}

/** The same question once more, after it failed or was stopped. */
export function again(turn) {
  return state.busy ? null : run(turn);
}

export function stop() {
  stopper?.abort();
}

/** Takes a turn out of the conversation. */
export function forget(turn) {
  state.turns = state.turns.filter((other) => other !== turn);
  if (state.shown === turn.id) state.shown = state.turns.at(-1)?.id ?? null;
  darken();
  changed("turns", "shown");
}

/** Begins anew; returns what gives the old conversation back. */
export function clear() {
  stop();
  const { turns, shown } = state;
  state.turns = [];
  state.shown = null;
  darken();
  changed("turns", "shown");
  return () => {
    Object.assign(state, { turns, shown });
    changed("turns", "shown");
  };
}

/** What has been said before a turn, and its question, as the server wants it. */
function messagesOf(turn) {
  const before = state.turns.slice(0, state.turns.indexOf(turn));
  const said = before.filter((other) => other.status === "done" || (other.status === "stopped" && other.text));
  const messages = [];
  for (const other of [...said, turn]) {
    const text = renumbered(other.question, other.boxes);
    const picture = { type: "image_url", image_url: { url: state.picture.dataUrl } };
    const content = messages.length ? text : [picture, { type: "text", text }];
    const message = { role: "user", content, grounded: other.grounded };
    if (other.boxes.length) message.regions = other.boxes.map(({ box }) => box);
    messages.push(message);
    if (other !== turn) messages.push(answerOf(other));
  }
  return messages;
}

/** A turn's answer as the message it came as. */
export function answerOf(turn) {
  const message = { role: "assistant", content: turn.text };
  if (turn.grounding) message.grounding = turn.grounding;
  return message;
}

async function run(turn) {
  const own = new AbortController();
  stopper = own;
  state.busy = true;
  state.shown = turn.id;
  darken();
  changed("busy", "shown");
  announce("Looking.");
  for (let left = TRIES; ; left -= 1) {
    Object.assign(turn, UNANSWERED);
    changed("turns");
    try {
      await receive(turn, own.signal);
      turn.status = "done";
      checkSize(turn);
    } catch (error) {
      if (own.signal.aborted) turn.status = "stopped";
      else if (
        error instanceof ServerError &&
        error.status === 429 &&
        left > 1 &&
        (error.retryAfter ?? 2) <= LONGEST_WAIT
      ) {
        if (left === TRIES) announce("The server is busy: the question waits.");
        await pause(turn, Math.max(1, Math.ceil(error.retryAfter ?? 2)), own.signal);
        if (!own.signal.aborted) continue;
        turn.status = "stopped";
      } else {
        if (!(error instanceof ServerError)) console.error(error);
        Object.assign(turn, {
          status: "failed",
          error: error instanceof ServerError ? error.message : "This page made a mistake.",
        });
      }
    }
    break;
  }
  if (stopper === own) {
    state.busy = false;
    stopper = null;
    tell(turn);
  }
  changed("turns", "shown", "busy");
}

async function receive(turn, signal) {
  const body = { model: state.config.model, messages: messagesOf(turn) };
  for await (const chunk of streamAnswer(body, signal)) {
    const choice = chunk.choices?.[0];
    if (!choice) continue;
    const { content, entities, grounding } = choice.delta ?? {};
    turn.status = "streaming";
    if (content) turn.text += content;
    if (entities) turn.entities = [...turn.entities, ...entities];
    if (grounding) Object.assign(turn, { grounding, entities: grounding.entities ?? [] });
    if (choice.finish_reason) turn.finish = choice.finish_reason;
    changed("turns");
  }
}

/** Counts down while the server is busy. */
async function pause(turn, seconds, signal) {
  turn.status = "queued";
  for (turn.wait = seconds; turn.wait > 0 && !signal.aborted; turn.wait -= 1) {
    changed("turns");
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, 1000);
      signal.addEventListener("abort", () => resolve(clearTimeout(timer)), { once: true });
    });
  }
}

/** Boxes fit only if both sides see the picture alike; a file's rotation may be read differently. */
function checkSize(turn) {
  const seen = turn.grounding?.images?.[0];
  const { width, height } = state.picture;
  if (!seen || (seen.width_px === width && seen.height_px === height)) return;
  turn.warning = `The server sees this picture as ${seen.width_px} × ${seen.height_px}, this browser as ${width} × ${height}: boxes may be off.`;
}

function tell(turn) {
  const tied = turn.entities.length;
  const phrases = tied ? ` ${tied} ${tied === 1 ? "phrase is" : "phrases are"} tied to regions.` : "";
  if (turn.status === "done") announce(`Answer: ${turn.text}${phrases}`);
  else if (turn.status === "stopped") announce("Stopped.");
}
