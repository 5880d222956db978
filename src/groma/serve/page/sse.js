// Server-sent events out of a stream of bytes: yields the data of each event.

export async function* events(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let waiting = "";
  let data = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      waiting += done ? decoder.decode() : decoder.decode(value, { stream: true });
      let end = waiting.search(/[\r\n]/);
      while (end >= 0) {
        if (waiting[end] === "\r" && end + 1 === waiting.length && !done) break; // its \n may still come
        const line = waiting.slice(0, end);
        waiting = waiting.slice(end + (waiting.startsWith("\r\n", end) ? 2 : 1));
        if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
        else if (line === "" && data.length) {
          yield data.join("\n");
          data = [];
        }
        end = waiting.search(/[\r\n]/);
      }
      if (done) return; // an event without its blank line never ended, and is dropped
    }
  } finally {
    reader.cancel().catch(() => {}); // a reader that stops early hangs up
  }
}
