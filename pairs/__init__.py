"""What a pair of prompts is: a procedural world of scenes, their captions and pictures, and how a picture is judged."""
