#!/usr/bin/env bash
# Starts a server with the embedded model and speaks to it: curl, OpenAI's Python client, and the page in a browser.
# bash scripts/serve_tour.sh [FOLDER FOR SCREENSHOTS]
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON="${PYTHON:-.venv/bin/python}"
OUT="${1:-out/page}"
LOG="$(mktemp)"

"$PYTHON" -m groma.cli serve groma-tiny --port 0 --log-level warning 2> "$LOG" &
SERVER=$!
trap 'kill "$SERVER" 2> /dev/null || true; wait "$SERVER" || true; rm -f "$LOG"' EXIT
URL=""
for _ in $(seq 600); do
    URL="$(grep -o 'http://127.0.0.1:[0-9]*' "$LOG" || true)"
    if [[ -n "$URL" ]] && curl -sf "$URL/health" > /dev/null; then break; fi
    kill -0 "$SERVER" || { cat "$LOG" >&2; exit 1; }
    sleep 0.2
done

echo "--- curl: where is the burger?"
curl -sf -F image=@examples/scene.png -F phrase="the burger" "$URL/locate" | "$PYTHON" -m json.tool | sed -n 1,20p  # which reads to the end, else the pipe breaks

echo "--- OpenAI's client: a grounded answer, then a box"
"$PYTHON" - "$URL" <<'PYTHON_END'
import base64
import sys

from openai import OpenAI

client = OpenAI(base_url=f"{sys.argv[1]}/v1", api_key="none")
picture = base64.b64encode(open("examples/scene.png", "rb").read()).decode()
image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}}
messages = [{"role": "user", "content": [image, {"type": "text", "text": "Describe the image in detail."}]}]
reply = client.chat.completions.create(model="groma-tiny", messages=messages)
message = reply.choices[0].message
print(message.content)
for entity in message.grounding["entities"]:
    print(f"  {entity['phrase']}: {[round(value) for value in entity['boxes_xyxy_px'][0]]}, {entity['score']:.0%} sure")

messages += [message, {"role": "user", "content": "What is [1]?", "regions": [[134, 188, 204, 262]]}]
for chunk in client.chat.completions.create(model="groma-tiny", messages=messages, stream=True):
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
PYTHON_END

echo "--- the page"
"$PYTHON" scripts/page_screenshots.py "$URL" --out "$OUT"
