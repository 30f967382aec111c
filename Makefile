# Every target makes what it needs: nothing has to be installed by hand but Python, make and a C++ compiler.

PYTHON ?= python3
DEMO   := .venv-demo
DEV    := .venv-dev
PIP    := --disable-pip-version-check --quiet
NATIVE := $(wildcard native/* native/*/*) CMakeLists.txt

.PHONY: demo setup test test-slow test-gpu check fix check-native bench docs nano-cpu clean native

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

check: $(DEV)/installed
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/ruff check .
	$(DEV)/bin/mypy
	$(DEV)/bin/mkdocs build --strict --quiet --site-dir build/site

fix: $(DEV)/installed
	$(DEV)/bin/ruff format .
	$(DEV)/bin/ruff check --fix .

# The native core alone, into the source tree, for working on it.
native: $(DEV)/installed
	$(DEV)/bin/cmake -S . -B build/native -G Ninja -DPython_EXECUTABLE=$(abspath $(DEV))/bin/python
	$(DEV)/bin/cmake --build build/native
	$(DEV)/bin/cmake --install build/native --prefix src

# The kernels' own tests under address and undefined-behaviour sanitizers, then under thread's.
check-native: $(DEV)/installed
	for kind in address,undefined thread; do \
	  $(DEV)/bin/cmake -S . -B build/check-$$kind -G Ninja -DCODELLAMA_MODULE=OFF \
	    -DCODELLAMA_TESTS=ON -DCODELLAMA_SANITIZE=$$kind && \
	  $(DEV)/bin/cmake --build build/check-$$kind && build/check-$$kind/native_tests || exit 1; \
	done

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

docs: $(DEV)/installed
	$(DEV)/bin/mkdocs build --strict --site-dir build/site

clean:
	rm -rf build dist .venv-demo .venv-dev .mypy_cache .pytest_cache .ruff_cache
