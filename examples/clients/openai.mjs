// Pictures from the openai package for Node.
import OpenAI from "openai";
import { describe } from "./picture.mjs";

const client = new OpenAI({
  baseURL: process.env.OPENAI_BASE_URL ?? "http://127.0.0.1:8000/v1",
  apiKey: process.env.OPENAI_API_KEY ?? "none", // the server needs none unless it was started with --api-keys
});
const prompt = "three red circles";
const pictures = (answer) => answer.data.map((image) => describe(Buffer.from(image.b64_json, "base64"))).join(", ");

const plain = await client.images.generate({ prompt });
console.log(`defaults: ${plain.model}: ${pictures(plain)}`);

const two = await client.images.generate({ model: "gpt-image-1", prompt, n: 2, size: "128x96", output_format: "webp" });
console.log(`gpt-image-1, n 2, size 128x96, webp: ${two.model}: ${pictures(two)}`);

for await (const event of await client.images.generate({ prompt, stream: true, partial_images: 2 })) {
  console.log(`stream: ${event.type}: ${describe(Buffer.from(event.b64_json, "base64"))}`);
}
