// Reads a picture file: its bytes go to the server as they are, and the browser shows them upright.

/** A file that is no picture for us; `message` is for the reader. */
export class PictureError extends Error {}

const TYPES = [
  ["image/png", /^\x89PNG/],
  ["image/jpeg", /^\xff\xd8\xff/],
  ["image/gif", /^GIF8/],
  ["image/webp", /^RIFF[^]{4}WEBP/],
  ["image/bmp", /^BM/],
  ["image/avif", /^[^]{4}ftypavi[fs]/],
];
const OTHERS = [
  ["a HEIC picture", /^[^]{4}ftyp(he|mif1)/],
  ["a TIFF picture", /^(II\*\0|MM\0\*)/],
  ["a PDF document", /^%PDF/i],
  ["an SVG drawing", /^\s*(<\?xml|<svg|<!DOCTYPE svg)/i],
  ["a video", /^[^]{4}ftyp/],
];

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;

let count = 0;

/**
 * Reads a file.
 *
 * Returns {id, name, dataUrl, url, width, height}: `dataUrl` are the file's bytes for the server, `url` is what to show,
 * width and height are pixels of the upright picture. Throws PictureError.
 */
export async function readPicture(file, maxBytes) {
  if (file.size > maxBytes) {
    throw new PictureError(
      `This picture has ${megabytes(file.size)}, but the server takes at most ${megabytes(maxBytes)}.`,
    );
  }
  if (!file.size) throw new PictureError("This file is empty.");
  const head = String.fromCharCode(...new Uint8Array(await file.slice(0, 4096).arrayBuffer()));
  const type = TYPES.find(([, pattern]) => pattern.test(head))?.[0];
  if (!type) {
    const other = OTHERS.find(([, pattern]) => pattern.test(head))?.[0];
    throw new PictureError(`This is ${other ?? "not a picture"}: choose a PNG, JPEG, WebP, GIF, BMP or AVIF picture.`);
  }
  const blob = new Blob([file], { type });
  const url = await still(blob, type, head);
  const image = new Image();
  image.src = url;
  try {
    await image.decode();
  } catch {
    URL.revokeObjectURL(url);
    throw new PictureError("This picture cannot be shown: is the file damaged?");
  }
  count += 1;
  const name = file.name || "pasted picture";
  return {
    id: count,
    name,
    dataUrl: await asDataUrl(blob),
    url,
    width: image.naturalWidth,
    height: image.naturalHeight,
  };
}

/** An address of what is shown: of moving pictures the first frame, as the server sees only that one. */
async function still(blob, type, head) {
  const moves =
    type === "image/gif" ||
    (type === "image/webp" && head.includes("ANIM")) ||
    (type === "image/png" && head.includes("acTL"));
  if (!moves) return URL.createObjectURL(blob);
  try {
    const frame = await createImageBitmap(blob);
    const canvas = Object.assign(document.createElement("canvas"), { width: frame.width, height: frame.height });
    canvas.getContext("2d").drawImage(frame, 0, 0);
    return URL.createObjectURL(await new Promise((resolve) => canvas.toBlob(resolve)));
  } catch {
    return URL.createObjectURL(blob); // decoding says what is wrong
  }
}

function asDataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new PictureError("This file cannot be read."));
    reader.readAsDataURL(blob);
  });
}
