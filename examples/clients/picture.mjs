// Media type and size of a picture, read from its bytes.
import { imageSize } from "image-size";

const TYPES = { png: "image/png", jpg: "image/jpeg", webp: "image/webp" };

export function describe(bytes) {
  const { type, width, height } = imageSize(bytes);
  return `${TYPES[type] ?? type} ${width}x${height}`;
}
