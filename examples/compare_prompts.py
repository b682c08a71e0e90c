"""Two prompts that differ in a word, drawn with the same seeds and judged.

Start `make serve`, then `python examples/compare_prompts.py`; the server's address may be given as an argument.
"""

import base64
import sys
from pathlib import Path

import httpx

url = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
prompts = ["three red circles", "four red circles"]
server = httpx.Client(base_url=url, timeout=300)

pair = server.post("/v1/images/pairs", json={"prompts": prompts, "n": 2, "seed": 1}).raise_for_status().json()
for spans, prompt in zip(pair["spans"], prompts, strict=True):
    print(f"{prompt}: only here {', '.join(repr(span['text']) for span in spans)}")
drawn = pair["models"][0]  # of the server's first model
for left, right, difference in zip(*drawn["images"], drawn["differences"], strict=True):
    print(f"seed {difference['seed']}: {difference['share']:.0%} of the codes differ")
    for side, image in (("left", left), ("right", right)):
        Path(f"{side}-{image['seed']}.png").write_bytes(base64.b64decode(image["b64_json"]))

pictures = [[image["b64_json"] for image in side] for side in drawn["images"]]
judged = server.post("/v1/judgements", json={"prompts": prompts, "images": pictures}).raise_for_status().json()
print(f"judge {judged['judge']}: s_a {judged['s_a']:.2f}, s_g {judged['s_g']:.2f}")
