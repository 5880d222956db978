// Talks to the server, and says in one sentence what went wrong. Addresses are relative: a proxy may add a prefix.

import { events } from "./sse.js";

/** What the server refused, or that it could not be reached; `message` is for the reader. */
export class ServerError extends Error {
  constructor(message, { status = 0, retryAfter = null } = {}) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter; // seconds
  }
}

const BY_STATUS = {
  401: "The server wants a key: put it in at the top of the page.",
  403: "The server does not allow this.",
  404: "The server does not know this address: is it a Groma server?",
  413: "The picture is too large for the server.",
  429: "The server is busy.",
  502: "The server behind this address does not answer.",
  503: "The server is starting or stopping: try again in a moment.",
  504: "The answer took too long.",
};

let key = "";
try {
  key = sessionStorage.getItem("groma-key") ?? "";
} catch {
  // storage is switched off: the key holds until the page is closed
}

export const getKey = () => key;

export function setKey(value) {
  key = value.replace(/[^\x21-\x7e]/g, ""); // what a header can carry
  try {
    sessionStorage.setItem("groma-key", key);
  } catch {
    // see above
  }
}

export async function getConfig() {
  return (await ask("page/config.json", { method: "GET" })).json();
}

/** An example picture as a file. */
export async function getExample({ name, url }) {
  const blob = await (await ask(url, { method: "GET" })).blob();
  return new File([blob], name, { type: blob.type });
}

/** What the proposer found on a picture (a data URL). */
export async function getRegions(image, signal) {
  return (await post("regions", { image }, signal)).json();
}

/** Yields the chunks of a streamed answer; throws ServerError if there is none, or if it breaks off. */
export async function* streamAnswer(body, signal) {
  const response = await post("v1/chat/completions", { ...body, stream: true }, signal);
  let finished = false;
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ServerError(sentence(chunk.error.message) ?? "The server failed while it answered.");
      finished ||= Boolean(chunk.choices?.[0]?.finish_reason);
      yield chunk;
    }
  } catch (error) {
    if (signal.aborted || error instanceof ServerError) throw error;
    if (error instanceof SyntaxError) throw new ServerError("The server sent something that is no answer.");
    throw new ServerError("The connection broke off before the answer ended.");
  }
  if (!finished) throw new ServerError("The connection ended before the answer did.");
}

function post(url, body, signal) {
  return ask(url, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
}

async function ask(url, options) {
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    response = await fetch(url, { ...options, headers });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ServerError("The server cannot be reached: is it still running?");
  }
  if (response.ok) return response;
  const retryAfter = Number.parseFloat(response.headers.get("Retry-After") ?? "");
  const told = sentence((await response.json().catch(() => null))?.error?.message);
  const known = headers.Authorization && response.status === 401 ? "The server does not know this key." : null;
  const message = known ?? (response.status === 401 ? BY_STATUS[401] : (told ?? BY_STATUS[response.status]));
  throw new ServerError(message ?? `The server failed (status ${response.status}).`, {
    status: response.status,
    retryAfter: Number.isFinite(retryAfter) ? Math.max(0, retryAfter) : null,
  });
}

/** The server's message as a sentence: a capital first, a full stop last. */
function sentence(message) {
  if (typeof message !== "string" || !message.trim()) return null;
  const text = message.trim();
  return `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
}
