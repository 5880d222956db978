// Starts the page and brings pictures in: chosen, dropped, pasted, or an example.

import { $, announce, clearToast, el, focusInPlace, hasKeyFocus, toast } from "./dom.js";
import { ServerError, getConfig, getExample, getKey, setKey } from "./api.js";
import { download } from "./annotate.js";
import { addAndFocus, startEditing } from "./edit.js";
import { PictureError, readPicture } from "./picture.js";
import { changed, darken, on, state } from "./state.js";
import { clear } from "./conversation.js";
import { focusComposer, nameInQuestion, prefill, startComposer } from "./composer.js";
import { showPhrase, startChat } from "./chat.js";
import { startIntro } from "./intro.js";
import { startOverlay } from "./overlay.js";
import { startProposals } from "./proposals.js";
import { startStage } from "./stage.js";

let reading = 0; // the last picture that was asked for wins
let retired = null; // the picture before this one, as it can be had back

/** Reads a file and begins a conversation about it; the old one can be had back for a while. */
async function take(file, question = null) {
  reading += 1;
  const mine = reading;
  document.body.classList.add("reading");
  try {
    const picture = await readPicture(file, state.config.max_upload_bytes);
    if (mine === reading) begin(picture, question);
    else URL.revokeObjectURL(picture.url);
  } catch (error) {
    if (mine === reading) complain(error, "This picture cannot be read.");
  } finally {
    if (mine === reading) document.body.classList.remove("reading");
  }
}

function begin(picture, question) {
  const old = { picture: state.picture, boxes: state.boxes };
  const hadTurns = state.turns.length > 0;
  const byKey = hasKeyFocus($("welcome")); // which goes now
  clearToast();
  const restore = clear();
  if (retired) URL.revokeObjectURL(retired.url);
  retired = old.picture;
  Object.assign(state, { picture, boxes: [], selected: null });
  changed("picture", "boxes");
  announce(`Picture ${picture.name}, ${picture.width} by ${picture.height} pixels.`);
  prefill(question ?? "");
  if (byKey) focusComposer($("add-box"));
  if (!hadTurns) return;
  const undo = () => {
    clear();
    retired = state.picture;
    Object.assign(state, { ...old, selected: null });
    restore();
    changed("picture", "boxes");
  };
  toast("A new picture began a new conversation.", { label: "Undo", act: undo });
}

function complain(error, otherwise) {
  if (!(error instanceof PictureError || error instanceof ServerError)) console.error(error);
  const text = error instanceof PictureError || error instanceof ServerError ? error.message : otherwise;
  toast(text);
}

function startPictures() {
  const input = $("file");
  const choose = () => input.click();
  $("choose-picture").addEventListener("click", choose);
  $("change-picture").addEventListener("click", choose);
  input.addEventListener("change", () => {
    if (input.files[0]) take(input.files[0]);
    input.value = ""; // the same file can be chosen again
  });
  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/"));
    if (!file) return;
    event.preventDefault();
    take(file);
  });
  startDropping();
}

function startDropping() {
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  const isAddress = (event) =>
    event.dataTransfer?.types.includes("text/uri-list") && !event.target.closest?.("textarea");
  let inside = 0; // dragenter and dragleave come for every element on the way
  const showIt = (count) => {
    inside = Math.max(0, count);
    $("dropping").hidden = inside === 0;
  };
  addEventListener("dragenter", (event) => hasFiles(event) && showIt(inside + 1));
  addEventListener("dragleave", (event) => hasFiles(event) && showIt(inside - 1));
  addEventListener("dragover", (event) => {
    if (hasFiles(event) || isAddress(event)) event.preventDefault(); // text may be dragged into the question
  });
  addEventListener("drop", (event) => {
    showIt(0);
    if (!hasFiles(event) && !isAddress(event)) return;
    event.preventDefault(); // the browser would leave the page for the file
    const file = event.dataTransfer.files[0];
    if (file) take(file);
    else toast("Drop a picture file, not a picture of another page: save it first.");
  });
}

function startTools() {
  $("add-box").addEventListener("click", addAndFocus);
  $("download").addEventListener("click", async () => {
    try {
      await download();
    } catch {
      toast("This picture is too large for this browser to draw on.");
    }
  });
  $("new-conversation").addEventListener("click", () => {
    const restore = clear();
    for (const own of state.boxes) own.fresh = true;
    changed("boxes");
    toast("The conversation is cleared.", { label: "Undo", act: restore });
    focusInPlace($("question"));
  });
  addEventListener("beforeunload", (event) => {
    if (state.turns.length) event.preventDefault(); // the conversation would be gone
  });
  on("turns", () => {
    $("new-conversation").hidden = !state.turns.length;
  });
  on("picture", darken);
}

function startKey() {
  $("key-form").hidden = !state.config.key_needed;
  $("key").value = getKey();
  $("key").addEventListener("input", (event) => setKey(event.target.value));
  $("key-form").addEventListener("submit", (event) => event.preventDefault());
}

function startExamples() {
  const { examples } = state.config;
  $("examples").hidden = !examples.length;
  $("thumbs").append(
    ...examples.map((example) => {
      const pick = async () => {
        try {
          await take(await getExample(example), example.question);
        } catch (error) {
          complain(error, "The example cannot be fetched.");
        }
      };
      return el(
        "button",
        { type: "button", class: "thumb", click: pick, "aria-label": `Example ${example.name}` },
        el("img", { src: example.url, alt: "", loading: "lazy" }),
      );
    }),
  );
}

async function start() {
  startStage();
  startOverlay();
  startEditing({ nameInQuestion, showPhrase });
  startChat();
  startComposer();
  startIntro();
  startProposals();
  startPictures();
  startTools();
  try {
    state.config = { ...state.config, ...(await getConfig()) };
  } catch (error) {
    complain(error, "The server's settings cannot be read.");
  }
  $("model").textContent = state.config.model;
  startKey();
  startExamples();
  document.documentElement.dataset.ready = "";
}

start();
