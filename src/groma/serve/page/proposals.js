// The proposer's regions: asked for once a picture, filtered here by the slider.

import { $, announce, toast } from "./dom.js";
import { ServerError, getRegions } from "./api.js";
import { shownProposals } from "./overlay.js";
import { changed, on, state } from "./state.js";

let asked = null; // id of the picture that regions are being fetched for

export function startProposals() {
  $("proposals").addEventListener("change", (event) => {
    state.proposals.on = event.target.checked;
    $("objectness-field").hidden = !state.proposals.on;
    fetchOnce();
    changed("proposals");
    tell();
  });
  $("objectness").addEventListener("input", (event) => {
    state.proposals.min = Number(event.target.value);
    $("objectness-value").textContent = state.proposals.min.toFixed(2);
    changed("proposals");
    tell();
  });
  on("picture", () => {
    state.proposals.list = null;
    asked = null;
    fetchOnce();
  });
}

async function fetchOnce() {
  const { picture } = state;
  if (!picture || !state.proposals.on || state.proposals.list || asked === picture.id) return;
  asked = picture.id;
  try {
    const { regions } = await getRegions(picture.dataUrl);
    if (state.picture !== picture) return;
    state.proposals.list = regions;
    changed("proposals");
    tell();
  } catch (error) {
    if (state.picture !== picture) return;
    asked = null;
    state.proposals.on = $("proposals").checked = false;
    $("objectness-field").hidden = true;
    changed("proposals");
    toast(error instanceof ServerError ? error.message : "The proposals cannot be shown.");
  }
}

function tell() {
  const { list, on: isOn } = state.proposals;
  if (isOn && list) announce(`${shownProposals().length} of ${list.length} proposals shown.`, 500);
}
