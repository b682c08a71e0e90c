"""Pictures from Python, without a server: `python examples/pictures.py`."""

from model.checkpoints.load import load
from serve.engine.draw import draw
from serve.engine.engine import Engine
from serve.engine.events import Finished
from serve.engine.job import Job

janus = load("tiny")  # or a folder, or a hub id such as deepseek-ai/Janus-Pro-1B
job = Job(janus.encode("three red circles"), None, seeds=(1, 2, 3, 4), params=janus.sampling)
for _, event in draw(Engine(janus), [job]):
    if isinstance(event, Finished):
        event.picture.save(f"circles-{event.index}.png")
