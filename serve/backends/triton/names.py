"""Names of our models in Triton."""


def triton_name(name: str) -> str:
    """Name of a model in Triton, where it is a folder: `owner/name` becomes `owner--name`."""
    return name.replace("/", "--")
