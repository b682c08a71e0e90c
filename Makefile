# Every target sets up what it needs into .venv first; that is quick when nothing changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL ?= tiny
# Unless MODEL= says otherwise, all shipped checkpoints are served, so that they can be compared.
SERVED = $(if $(filter file,$(origin MODEL)),tiny tiny-sft tiny-base,$(MODEL))
PORT ?= 8000

# A Triton server for the tests: one wheel, apart from the other packages. There is none but for Linux on x86-64.
TRITON = [ "$$(uname -sm)" != "Linux x86_64" ] || $(BIN)/python -m pip install --quiet --disable-pip-version-check \
  --no-deps --upgrade --target $(VENV)/triton nvidia-pytriton==0.7.0

# spandrel without what it declares: torchvision must match the build of PyTorch, and --upscaler needs none of it.
SPANDREL = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps spandrel einops

.PHONY: serve test check bench train image prove clean

serve: $(VENV)/.serve
	$(BIN)/focusdiff-serve $(addprefix --model ,$(SERVED)) --judge exact --port $(PORT)

# Three workers with a thread each for two cores: many tests wait, and threads that wait for each other take the cores
# from other tests.
test: $(VENV)/.dev
	@echo "every test, on the CPU: 13 to 20 minutes on two cores"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/hadolint Dockerfile

# Makes tiny-base, tiny-sft and tiny in run/tiny from nothing; called again, it goes on where it was stopped.
train: $(VENV)/.train
	$(BIN)/focusdiff-train tiny --out run/tiny

bench: $(VENV)/.dev
	$(BIN)/focusdiff-bench speed --model $(MODEL)
	$(BIN)/focusdiff-bench jacobi --model $(MODEL)
	$(BIN)/focusdiff-bench load --model $(MODEL)
	$(BIN)/focusdiff-bench startup --model $(MODEL) --fresh

# The container image, as docs/deploy.md describes; VARIANT=cuda for NVIDIA GPUs.
VARIANT ?= cpu
image:
	docker build --tag focusdiff --build-arg VARIANT=$(VARIANT) \
	  --build-arg VERSION=$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) \
	  --build-arg REVISION=$$(git describe --always --dirty --abbrev=40) .

# Builds the image, runs it and draws with it, in a Docker engine of its own; needs root.
prove: $(VENV)/.serve
	PYTHON=$(BIN)/python deploy/prove

clean:
	rm -rf $(VENV)

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else 0'
	$(PYTHON) -m venv $(VENV)

# The stamps say which set of packages is in place; pip is asked again only when the files change.
$(VENV)/.serve: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/.train: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train]'
	touch $@ $(VENV)/.serve

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(SPANDREL)
	$(TRITON)
	touch $@ $(VENV)/.serve $(VENV)/.train
