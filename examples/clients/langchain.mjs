// Pictures from LangChain for JS.
import { DallEAPIWrapper } from "@langchain/openai";
import { describe } from "./picture.mjs";

const settings = {
  baseUrl: process.env.OPENAI_BASE_URL ?? "http://127.0.0.1:8000/v1",
  apiKey: process.env.OPENAI_API_KEY ?? "none", // the server needs none unless it was started with --api-keys
};
const prompt = "three red circles";

const link = await new DallEAPIWrapper(settings).invoke(prompt);
const answer = await fetch(link);
const picture = new Uint8Array(await answer.arrayBuffer());
console.log(`defaults: a link to ${answer.headers.get("content-type")}: ${describe(picture)}`);

const base64 = { model: "tiny", n: 2, size: "512x512", dallEResponseFormat: "b64_json" };
const parts = await new DallEAPIWrapper({ ...settings, ...base64 }).invoke(prompt);
const found = parts.map((part) => describe(Buffer.from(part.image_url.url, "base64")));
console.log(`tiny, n 2, size 512x512, base64: ${found.join(", ")}`);
