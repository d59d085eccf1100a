# The two commands of the README are `make demo` and `make test`; each sets up everything that it needs, once.
.POSIX:

# the Python that the environment is made from: make PYTHON=python3.12 demo
PYTHON = python3
# Small tensors gain nothing from many threads and lose much where they share the processor: two, unless told otherwise
THREADS = 2
# for single runs: make test TESTS="tests/test_package.py -k wheel"
TESTS =
# handed to the training script: make train-shapes-vlm ARGS="--help"
ARGS =

BIN = .venv/bin
PIP_INSTALL = $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt
RUN = OMP_NUM_THREADS=$(THREADS) $(BIN)
# For tests the threads are processes of one thread each: the models are tiny. A process that has done its share takes
# over what another has not begun
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(THREADS) --dist worksteal
# a minute; single runs of tests (TESTS=...) go without
TYPES = $(BIN)/basedpyright --pythonpath $(BIN)/python --level error

# what differs between versions of the libraries: model, processor, pipelines, training, a reader, registration
FAST = tests/test_auto.py tests/test_package.py tests/model/test_modeling.py tests/model/test_processing.py \
    tests/model/test_features.py tests/bases/test_families.py tests/bases/test_loading.py tests/pipeline tests/cli \
    tests/training/test_sft_trainer.py tests/training/test_contrastive_trainer.py tests/training/test_lora.py \
    tests/tokenizer/test_linear_video_tokenizer.py tests/video/test_reading.py

# what has tests over every architecture; tests/bases/test_bases_page.py looks that none is missing
BASES = tests/bases/test_bases.py tests/bases/test_families.py tests/bases/test_positions.py \
    tests/bases/test_frame_path.py tests/bases/test_frame_size.py tests/bases/test_places.py tests/training/test_head.py

# where the clips and checkpoints of train-linvt-shapes go
SHAPES = outputs
SEED = 56

.PHONY: help demo test types test-wheel test-oldest test-newest docs test-bases test-slow test-fuzz train-shapes-vlm train-linvt-shapes results coverage test-harness test-web test-notebooks format clean

help:
	@echo "make demo                set up .venv, then answer questions about a video it draws"
	@echo "make test                set up .venv, then ruff, typos, pyright and the tests that CI runs"
	@echo "make types               pyright (basic) alone, which make test has too"
	@echo "make test-wheel          the wheel with the newest of everything: make PYTHON=python3.13 test-wheel"
	@echo "make test-oldest         a part of the tests with the oldest versions that pyproject.toml allows"
	@echo "make test-newest         the same part with the newest: make PYTHON=python3.13 test-newest"
	@echo "make docs                the site with a reference of every public name, in site/"
	@echo "make test-bases          the tests over every architecture of transformers; writes docs/bases.md"
	@echo "make test-fuzz           read 1,000 damaged videos and count what comes of it"
	@echo "make test-slow           the tests that take a minute or more each"
	@echo "make train-shapes-vlm    train the small model that the wheel carries, again"
	@echo "make train-linvt-shapes  train the LinVT that the wheel carries, again, in two stages"
	@echo "make results             every table of docs/results.md again, from the figures in docs/results/"
	@echo "make coverage            what of the clips in LINVT_TEST_VIDEOS an untrained LinVT covers: docs/coverage.md"
	@echo "make test-harness        LinVT in lmms-eval, on miniatures of benchmarks, in an environment of its own"
	@echo "make test-web            the page of linvt web in headless Chromium, in an environment of its own"
	@echo "make test-notebooks      the notebooks of examples/notebooks, from their first cell to their last"
	@echo "make format              let ruff mend and format the sources"
	@echo "make clean               remove .venv, caches and builds"

demo: .venv/installed
	$(RUN)/linvt demo

test: .venv/installed-dev
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/typos --quiet
	$(if $(TESTS),,$(TYPES))
	$(PYTEST) $(TESTS)

# What a user gets: the wheel, the newest releases that its requirements allow, and no sources and no constraints beside
# it. The environment is made anew each time, because what is newest changes without a change of this tree
test-wheel:
	$(PYTHON) -m venv --clear .venv-wheel
	rm -rf build/wheel
	.venv-wheel/bin/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build/wheel .
	.venv-wheel/bin/python -m pip install --quiet --disable-pip-version-check build/wheel/transformers_linvt-*.whl
	.venv-wheel/bin/python -m pip list --disable-pip-version-check
	@unset PYTHONPATH; folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && cd "$$folder" && \
	    OMP_NUM_THREADS=$(THREADS) $(CURDIR)/.venv-wheel/bin/linvt demo

test-bases: .venv-bases/installed
	mkdir -p $(SHAPES)
	OMP_NUM_THREADS=1 .venv-bases/bin/python -m pytest -m "bases or not bases" -n $(THREADS) -q \
	    --junitxml=$(SHAPES)/bases.xml $(BASES) $(TESTS)
	.venv-bases/bin/python tests/support/bases_table.py $(SHAPES)/bases.xml docs/bases.md

# 1,000 damaged files, each read in a process with limits: ARGS="--files 5000 --seed 1 --video-backend decord"
test-fuzz: .venv/installed-dev
	$(RUN)/python tests/support/fuzz.py $(ARGS)

# Oldest versions allowed, by uv, which pip has no way to ask for; what changes with versions is in FAST. Compiled as pip
# does: compiling in the tests would make errors of what torchao is warned of
test-oldest:
	$(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-oldest/bin/uv pip install --quiet --python .venv-oldest/bin/python --resolution lowest-direct \
	    --compile-bytecode --editable ".[dev,training]"
	.venv-oldest/bin/python -m pip list --disable-pip-version-check
	OMP_NUM_THREADS=1 .venv-oldest/bin/python -m pytest -n $(THREADS) --dist worksteal $(or $(TESTS),$(FAST))

# Newest versions on the index, no constraints: make PYTHON=python3.13 test-newest. On Linux this takes torch with CUDA
test-newest:
	$(PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,training]"
	.venv-newest/bin/python -m pip list --disable-pip-version-check
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest -n $(THREADS) --dist worksteal $(or $(TESTS),$(FAST))

# The site, in site/; it fails on whatever it would warn of
docs: .venv-docs/installed
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --clean
	@echo "The pages are in site/; .venv-docs/bin/mkdocs serve shows them while they are written"

types: .venv/installed-dev
	$(TYPES)

test-slow: .venv/installed-dev
	$(PYTEST) -m "slow and not network and not gpu" $(TESTS)

train-shapes-vlm: .venv/installed-dev
	$(RUN)/python examples/train_shapes_vlm.py $(ARGS)

# One thread each: what is in the wheel was trained so, and other numbers of threads add in another order
train-linvt-shapes: THREADS = 1
train-linvt-shapes: .venv/installed-dev
	$(RUN)/python examples/shapes_clips.py draw --output $(SHAPES)/clips
	$(RUN)/python examples/train_alignment.py --config examples/configs/shapes_alignment.yaml --use_cpu --seed $(SEED) \
	    --model_name_or_path src/transformers_linvt/demo/assets/shapes_vlm \
	    --dataset_name $(SHAPES)/clips/align.jsonl --output_dir $(SHAPES)/stage_1
	$(RUN)/python examples/train_instruct.py --config examples/configs/shapes_instruct.yaml --use_cpu --seed $(SEED) \
	    --model_name_or_path $(SHAPES)/stage_1 \
	    --dataset_name $(SHAPES)/clips/instruct.jsonl --output_dir $(SHAPES)/stage_2 \
	    --cache_frame_tokens $(SHAPES)/frame_tokens --cache_frame_tokens_dtype auto
	$(RUN)/python examples/shapes_clips.py plot $(SHAPES)/stage_1/trainer_state.json \
	    $(SHAPES)/stage_2/trainer_state.json --output $(SHAPES)/curves.png
	$(RUN)/python examples/shapes_clips.py evaluate $(SHAPES)/stage_2 --frames 8 16 32 64 --clips 100 \
	    --pictures 1000 --report $(SHAPES)/report.json
	@echo "To make it the one that the package carries: $(BIN)/python examples/shapes_clips.py embed $(SHAPES)/stage_2"

# One thread: the figures of docs/coverage.md are made so
results: .venv/installed-dev
	$(BIN)/python benchmarks/results_page.py $(if $(RUNS),--runs $(RUNS)) $(if $(TOKENS),--tokens $(TOKENS))

coverage: THREADS = 1
coverage: .venv/installed-coverage
	@test -n "$(LINVT_TEST_VIDEOS)" || { \
	    echo "LINVT_TEST_VIDEOS is not set: make LINVT_TEST_VIDEOS=FOLDER coverage, see CONTRIBUTING.md"; exit 1; }
	$(RUN)/python benchmarks/coverage.py "$(LINVT_TEST_VIDEOS)" $(ARGS)

test-harness: .venv-harness/installed
	HF_HUB_OFFLINE=1 HF_HOME=$(CURDIR)/.venv-harness/hub OMP_NUM_THREADS=1 .venv-harness/bin/python -m pytest \
	    -m "slow or not slow" tests/evaluation/test_harness.py tests/evaluation/test_benchmarks.py $(TESTS)

# Chromium is Debian's (apt-get install chromium), what LINVT_CHROMIUM names, or that of `playwright install chromium`
test-web: .venv-web/installed
	OMP_NUM_THREADS=1 .venv-web/bin/python -m pytest -m browser tests/web $(TESTS)

test-notebooks: .venv-web/installed
	OMP_NUM_THREADS=$(THREADS) .venv-web/bin/python -m pytest -m notebook tests/test_notebooks.py $(TESTS)

format: .venv/installed-dev
	$(BIN)/ruff check --quiet --fix .
	$(BIN)/ruff format --quiet .

clean:
	rm -rf .venv .venv-wheel .venv-harness .venv-bases .venv-oldest .venv-newest .venv-docs .venv-web build dist site .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: pip is asked again only when what is to be installed has changed. The sources are installed as editable.
.venv/installed: pyproject.toml constraints.txt .venv/python-found
	@echo "Installing transformers-linvt into .venv (once, a minute or more)"
	@$(PIP_INSTALL) --editable .
	@touch $@

.venv/installed-dev: pyproject.toml constraints.txt .venv/python-found
	@echo "Installing transformers-linvt with its tools for tests and training into .venv (once, a minute or more)"
	@$(PIP_INSTALL) --editable ".[dev,training]"
	@touch .venv/installed $@

.venv/installed-coverage: pyproject.toml constraints.txt .venv/python-found
	@echo "Installing transformers-linvt with an ImageNet network into .venv (once, a minute or more)"
	@$(PIP_INSTALL) --editable ".[coverage]"
	@touch .venv/installed $@

# Some architectures need torchvision and timm, whose wheels fit some builds of torch only: an environment of its own
.venv-bases/installed: pyproject.toml constraints.txt constraints-bases.txt .venv/python-found
	@echo "Installing what every architecture of transformers needs into .venv-bases (once, some minutes)"
	@$(PYTHON) -m venv --clear .venv-bases
	@grep -v "^torch" constraints.txt | .venv-bases/bin/python -m pip install --quiet --quiet \
	    --disable-pip-version-check --constraint constraints-bases.txt --constraint /dev/stdin \
	    --editable ".[bases,dev,training]"
	@touch $@

# lmms-eval holds back some libraries. It asks for torchvision, whose wheels fit some builds of torch only, and does
# without where there is none
.venv-harness/installed: pyproject.toml constraints.txt .venv/python-found
	@echo "Installing lmms-eval and what it needs into .venv-harness (once, some minutes)"
	@$(PYTHON) -m venv --clear .venv-harness
	@grep -Ev "^(av|filelock|protobuf|torchao|torchcodec|decord)==" constraints.txt | .venv-harness/bin/python -m pip \
	    install --quiet --quiet --disable-pip-version-check --constraint /dev/stdin --editable ".[evaluation]" \
	    pytest pytest-timeout
	@.venv-harness/bin/python -c "import torchvision" 2>/dev/null || \
	    .venv-harness/bin/python -m pip uninstall --quiet --yes torchvision
	@.venv-harness/bin/python -c "import lmms_eval.evaluator"
	@touch $@

# Gradio holds back a library that ruff's and trl's neighbours want newer: an environment of its own
.venv-web/installed: pyproject.toml constraints.txt
	@echo "Installing Gradio, Playwright and nbclient into .venv-web (once, some minutes)"
	@$(PYTHON) -m venv --clear .venv-web
	@grep -E "^(torch|transformers|peft|trl|datasets)==" constraints.txt | .venv-web/bin/python -m pip install --quiet \
	    --quiet --disable-pip-version-check --constraint /dev/stdin --editable ".[web,training]" httpx ipykernel nbclient \
	    playwright pytest pytest-timeout
	@touch $@

.venv-docs/installed: requirements-docs.txt
	@$(PYTHON) -m venv --clear .venv-docs
	@.venv-docs/bin/python -m pip install --quiet --quiet --disable-pip-version-check --requirement requirements-docs.txt
	@touch $@

# An environment that was cut off half-way has no stamp and is made anew
.venv/python-found:
	@$(PYTHON) -c 'import re, sys; \
	least = int(re.search("requires-python = .>=3.([0-9]+)", open("pyproject.toml").read()).group(1)); \
	sys.version_info >= (3, least) or sys.exit("transformers-linvt needs Python 3.%d or newer and this is %s: " \
	    "name another, make PYTHON=python3.%d ..." % (least, sys.version.split()[0], least))'
	@$(PYTHON) -m venv --clear .venv
	@touch $@
