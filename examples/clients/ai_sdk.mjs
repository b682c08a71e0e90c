// Pictures from Vercel's AI SDK, by both of its providers.
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateImage } from "ai";
import { describe } from "./picture.mjs";

const baseURL = process.env.OPENAI_BASE_URL ?? "http://127.0.0.1:8000/v1";
const apiKey = process.env.OPENAI_API_KEY ?? "none"; // the server needs none unless it was started with --api-keys
const prompt = "three red circles";

async function draw(name, options) {
  const { images, responses } = await generateImage({ prompt, ...options });
  const found = images.map((image) => describe(image.uint8Array));
  console.log(`${name}: ${responses[0].modelId}: ${found.join(", ")}; ${responses.length} requests`);
}

const openai = createOpenAI({ baseURL, apiKey });
await draw("openai, defaults", { model: openai.image("tiny") });
await draw("openai, n 2, size 128x96", { model: openai.image("tiny"), n: 2, size: "128x96" });
await draw("openai, gpt-image-1, webp", {
  model: openai.image("gpt-image-1"),
  providerOptions: { openai: { outputFormat: "webp" } },
});

const compatible = createOpenAICompatible({ name: "focusdiff", baseURL, apiKey });
await draw("openai-compatible, defaults", { model: compatible.imageModel("tiny") });
await draw("openai-compatible, n 2, seed, links", {
  model: compatible.imageModel("tiny"),
  n: 2,
  providerOptions: { focusdiff: { seed: 1, response_format: "url" } },
});
