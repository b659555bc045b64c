# Everything from a fresh clone: `make test`, `make demo`. Each target sets up what it needs, once.
VENV   ?= .venv
PYTHON ?= python3
TORCH  ?= torch==2.13.0

PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip -qq --disable-pip-version-check --no-input
INSTALLED := $(VENV)/.installed
BENCH_INSTALLED := $(VENV)/.bench-installed
PACKAGE_INSTALLED := $(VENV)/.package-installed
DOCS_INSTALLED := $(VENV)/.docs-installed
BROWSE_INSTALLED := $(VENV)/.browse-installed
BUILT     := $(VENV)/.built
SOURCES   := $(shell find csrc -type f 2>/dev/null) setup.py pyproject.toml fastcells/_version.py
export PATH := $(abspath $(VENV))/bin:$(PATH)

# The tools of pyproject.toml's extras, one a line: of those that are named, else of all but bench,
# which holds whole frameworks to measure against, package, which only `make wheel` needs, and those of
# the documentation's site.
define LIST_EXTRAS
import sys
try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib
with open("pyproject.toml", "rb") as file:
    extras = tomllib.load(file)["project"]["optional-dependencies"]
wanted = sys.argv[1:] or [
    name for name in extras if name not in ("bench", "package", "docs", "browse")
]
print("\n".join(sum((extras[name] for name in wanted), [])))
endef
export LIST_EXTRAS

.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help venv build test test-all set-up format-check test-cpp mutation-check cuda-check pytest \
        docs-check fuzz docs docs-browse sanitize sanitize-threads in-one-process demo bench bench-quick clients \
        wheel wheel-check types gpu gpu-kit gpu-rehearsal format clean FORCE

help:  ## list the targets
	@echo "make TARGET [VENV=$(VENV)] [PYTHON=$(PYTHON)] [TORCH='$(TORCH)']"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

venv: $(INSTALLED)  ## make the virtual environment, with torch and the tools
$(INSTALLED): pyproject.toml $(if $(filter $(TORCH),$(file < $(INSTALLED))),,FORCE)
	@echo "venv: installing $(TORCH) and the tools of pyproject.toml into $(VENV)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PIP) install "$(TORCH)" setuptools wheel ninja pybind11
	@$(PY) -c "$$LIST_EXTRAS" > $(VENV)/extras.txt && $(PIP) install -r $(VENV)/extras.txt
	@command -v cmake > /dev/null || $(PIP) install cmake
	@echo "$(TORCH)" > $@

build: $(BUILT)  ## compile csrc/ and install the package, editable
$(BUILT): $(INSTALLED) $(SOURCES) $(if $(wildcard fastcells/_C.*.so),,FORCE)
	@echo "build: compiling csrc/ into fastcells._C and installing it editable (minutes at first)"
	@$(PIP) install --no-build-isolation --no-deps -e .
	@touch $@

# Of what proves the same thing for another cell, storage, instruction set or architecture, a part;
# all of it: `make test-all`.
test: export FASTCELLS_CUDA_CHECK_ARCHS ?= 90a
test: export FASTCELLS_CUDA_CHECK_ONLY_DEVICE ?= 1
test: export FASTCELLS_SAMPLED ?= 1
test: SAMPLED = --sampled
CHECKS := set-up test-cpp sanitize-threads mutation-check cuda-check pytest in-one-process
test: $(CHECKS)  ## all checks, of long grids a part
	@echo "test: all checks passed"

EVERYTHING := venv build format-check types sanitize mutation-check cuda-check pytest in-one-process
test-all: $(EVERYTHING)  ## all checks, with every case of every grid (an hour)
	@echo "test-all: all checks passed"

# While pip fetches and one compiler is busy with the last file, another has the C++ tests, which need
# no torch.
set-up:
	@if command -v cmake > /dev/null && command -v ninja > /dev/null; then \
	    $(BUILD_CPP_TESTS) -j1; \
	  fi & other=$$!; \
	  $(MAKE) --no-print-directory venv format-check types build; code=$$?; \
	  wait $$other && exit $$code

# Those that keep one core busy, two at a time.
in-one-process: build test-cpp
	@echo "fuzz: $(SECONDS) seconds, seed $(SEED), then docs-check; beside them gpu-rehearsal"
	@$(REHEARSAL) & other=$$!; $(FUZZ) && $(DOCS_CHECK); code=$$?; wait $$other && exit $$code

format-check: venv  ## ruff over the Python files, changing nothing
	@echo "format-check: ruff over the Python files"
	@$(PY) -m ruff check --quiet . && $(PY) -m ruff format --check --quiet .

# What runs under the CUDA emulator, which checks addresses itself, is not sanitized here, and the
# kernels of AVX2 and AVX512 are not compiled again: that takes minutes, and `make sanitize` does it.
BUILD_CPP_TESTS = cmake -S . -B build/cmake -G Ninja --log-level=WARNING \
	  -DFASTCELLS_SANITIZE=address,undefined -DFASTCELLS_SANITIZE_EMULATED=OFF \
	  -DFASTCELLS_EVERY_INSTRUCTION_SET=OFF > /dev/null && cmake --build build/cmake -- --quiet
test-cpp: venv  ## C++ tests, without torch: those of the CPU's kernels under sanitizers
	@echo "test-cpp: CMake and CTest in build/cmake"
	@$(BUILD_CPP_TESTS)
	@ctest --test-dir build/cmake --parallel 2 --output-on-failure --no-tests=error

sanitize: venv  ## every C++ test under address and undefined, the engines under thread (minutes)
	@$(PY) tests/project/sanitize.py

sanitize-threads: venv  ## the team of threads and the CPU engines under ThreadSanitizer
	@$(PY) tests/project/sanitize.py thread

SECONDS ?= 60
SEED    ?= 0
FUZZ      = $(PY) tests/fuzz/fuzz.py --seconds $(SECONDS) --seed $(SEED)
DOCS_CHECK = $(PY) tests/project/docs_check.py
REHEARSAL = $(PY) -m benchmarks.gpu.kit --output build/gpu-rehearsal --programs build/cmake \
            --rehearse --seconds 170
fuzz: build  ## random configurations against torch in float64: make fuzz SECONDS=600 SEED=1
	@echo "fuzz: $(SECONDS) seconds, seed $(SEED)"
	@$(FUZZ)

mutation-check: venv  ## break each cell in turn: the C++ tests must notice
	@echo "mutation-check: breaking each cell in turn, the C++ tests must notice"
	@$(PY) tests/project/mutation_check.py

cuda-check: venv  ## compile the CUDA sources without a GPU, report registers, stack and spills
	@echo "cuda-check: compiling the CUDA sources where nvcc is present (nothing runs)"
	@$(PY) tests/project/cuda_check.py

pytest: build  ## the Python tests
	@echo "pytest: the Python tests, in two processes $(SAMPLED)"
	@$(PY) -m pytest -n 2 --dist worksteal $(SAMPLED)

docs-check: build  ## run the code blocks of README.md and docs/
	@echo "docs-check: running the code blocks of README.md and docs/"
	@$(DOCS_CHECK)

$(VENV)/.%-installed: $(INSTALLED)
	@echo "$*: installing the extra of pyproject.toml into $(VENV)"
	@$(PY) -c "$$LIST_EXTRAS" $* > $(VENV)/$*.txt && $(PIP) install "$(TORCH)" -r $(VENV)/$*.txt
	@touch $@

SITE := build/site
docs: build $(DOCS_INSTALLED)  ## the documentation as a site, in build/site
	@echo "docs: the site in $(SITE)"
	@rm -rf $(SITE) docs/site/generated
	@$(PY) -m benchmarks.plots build/plots
	@$(PY) -m benchmarks.plans build/plots
	@$(PY) -m sphinx -q -W --keep-going -E -c docs/site . $(SITE)

docs-browse: docs $(BROWSE_INSTALLED)  ## open every page of the site in headless Chromium
	@echo "docs-browse: every page of $(SITE), as a desktop and as a phone"
	@$(PY) tests/project/docs_browse.py $(SITE)

demo: build  ## train on real speech, fastcells beside torch.nn
	@echo "demo: examples/speakers.py"
	@$(PY) examples/speakers.py

wheel: $(PACKAGE_INSTALLED)  ## sdist and wheel into dist/, with what twine and auditwheel say (minutes)
	@$(PY) tests/project/packages.py build

wheel-check:  ## install the wheel of dist/ into an environment with torch alone, run its self-test
	@$(PY) tests/project/packages.py check "$(TORCH)"

types: venv  ## mypy, strict, over the package
	@echo "types: mypy over fastcells/"
	@$(PY) -m mypy --no-error-summary

bench: build $(BENCH_INSTALLED)  ## time fastcells beside other libraries, on a quiet CPU
	@echo "bench: benchmarks/recurrent/cpu.py (minutes)"
	@$(PY) -m benchmarks.recurrent.cpu
	@echo "bench: benchmarks/recurrent/narrow.py"
	@$(PY) -m benchmarks.recurrent.narrow
	@echo "bench: benchmarks/recurrent/elementwise.py"
	@$(PY) -m benchmarks.recurrent.elementwise
	@echo "bench: benchmarks/recurrent/normalised.py"
	@$(PY) -m benchmarks.recurrent.normalised
	@echo "bench: benchmarks/own_cells.py"
	@$(PY) -m benchmarks.own_cells
	@echo "bench: benchmarks/scan/cpu.py"
	@$(PY) -m benchmarks.scan.cpu
	@echo "bench: benchmarks/attention/cpu.py (minutes)"
	@$(PY) -m benchmarks.attention.cpu
	@echo "bench: benchmarks/small_calls.py"
	@$(PY) -m benchmarks.small_calls

bench-quick: build $(BENCH_INSTALLED)  ## the same, few shapes and rounds
	@echo "bench-quick: benchmarks/recurrent/cpu.py --quick"
	@$(PY) -m benchmarks.recurrent.cpu --quick
	@echo "bench-quick: benchmarks/recurrent/narrow.py --quick"
	@$(PY) -m benchmarks.recurrent.narrow --quick
	@echo "bench-quick: benchmarks/recurrent/elementwise.py --quick"
	@$(PY) -m benchmarks.recurrent.elementwise --quick
	@echo "bench-quick: benchmarks/recurrent/normalised.py --quick"
	@$(PY) -m benchmarks.recurrent.normalised --quick
	@echo "bench-quick: benchmarks/own_cells.py --quick"
	@$(PY) -m benchmarks.own_cells --quick
	@echo "bench-quick: benchmarks/scan/cpu.py --quick"
	@$(PY) -m benchmarks.scan.cpu --quick
	@echo "bench-quick: benchmarks/attention/cpu.py --quick"
	@$(PY) -m benchmarks.attention.cpu --quick
	@echo "bench-quick: benchmarks/small_calls.py --quick"
	@$(PY) -m benchmarks.small_calls --quick

# Packages that build on torch.nn, in an environment of their own that sees this one's torch.
CLIENTS := build/clients-venv
CLIENTS_PY := $(CLIENTS)/bin/python
$(CLIENTS)/.installed: benchmarks/clients/packages.txt $(INSTALLED)
	@echo "clients: installing benchmarks/clients/packages.txt into $(CLIENTS) (minutes, 1.2 GB)"
	@$(PY) -m venv $(CLIENTS) && $(CLIENTS_PY) -m pip -qq install --upgrade pip
	@$(PY) -c "import site; print(site.getsitepackages()[0])" > \
	  "$$($(CLIENTS_PY) -c 'import site; print(site.getsitepackages()[0])')/base.pth"
	@$(CLIENTS_PY) -c "import torch; print(f'torch=={torch.__version__}')" > $(CLIENTS)/torch.txt
	@grep -v '^#' $< | while read -r line; do \
	  $(CLIENTS_PY) -m pip -qq --disable-pip-version-check --no-input install \
	    -c $(CLIENTS)/torch.txt $$line || echo "clients: not installed: $$line"; done
	@touch $@

clients: build $(CLIENTS)/.installed  ## other packages' models on fastcells: the same, and how fast
	@echo "clients: benchmarks/clients/run.py (minutes)"
	@PYTHONPATH=. $(CLIENTS_PY) -m benchmarks.clients.run

# The programs that a machine with a GPU is given: nothing is compiled before the first kernel runs.
GPU_ARCHS ?= 90a
GPU_FLAGS := -std=c++20 -O3 --expt-relaxed-constexpr -cudart static -Icsrc -Itests -Itests/cpp \
             -Itests/cpp/recurrent -Itests/cpp/attention \
             $(foreach arch,$(GPU_ARCHS),-gencode arch=compute_$(arch),code=sm_$(arch))
GPU_TESTS := $(filter-out %/test_cuda_plan.cpp %/test_cuda_counts.cpp,$(wildcard tests/cpp/*/test_cuda_*.cpp))
GPU_PROGRAMS := $(patsubst %.cpp,build/gpu/%,$(notdir $(GPU_TESTS))) \
                $(addprefix build/gpu/,sequence attention micro)
GPU_HEADERS := $(shell find csrc tests/cpp tests/card benchmarks/gpu -name '*.h' -o -name '*.cuh')
vpath test_cuda_%.cpp $(sort $(dir $(GPU_TESTS)))

gpu-kit: $(GPU_PROGRAMS)  ## where nvcc is: the programs of `make gpu`, without torch (minutes)
	@du -ch $(GPU_PROGRAMS)

build/gpu/test_%: test_%.cpp tests/card/new.cpp $(GPU_HEADERS)
	@mkdir -p build/gpu && echo "gpu-kit: $@"
	@nvcc $(GPU_FLAGS) -x cu -c -o $@.o $< && nvcc $(GPU_FLAGS) -c -o $@.new.o tests/card/new.cpp
	@nvcc $(GPU_FLAGS) -o $@ $@.o $@.new.o && rm $@.o $@.new.o && strip -s $@
build/gpu/%: benchmarks/gpu/%.cu $(GPU_HEADERS)
	@mkdir -p build/gpu && echo "gpu-kit: $@"
	@nvcc $(GPU_FLAGS) -o $@ $< && strip -s $@

# Where a GPU is, torch is there already, and often nothing can be downloaded: no virtual environment.
GPU_PYTHON ?= python3
GPU_OUTPUT ?= build/gpu-results
gpu:  ## on a machine with a GPU: every stage of benchmarks/gpu/kit.py, with GPU_PYTHON's own torch
	@$(GPU_PYTHON) -m benchmarks.gpu.kit --output $(GPU_OUTPUT) --resume

gpu-rehearsal: build test-cpp  ## the same without a GPU: the emulator's programs, tiny benchmarks
	@$(REHEARSAL)

format: venv  ## format Python and C++ in place
	@echo "format: ruff and clang-format, in place"
	@$(PY) -m ruff check --fix --exit-zero --quiet . && $(PY) -m ruff format --quiet .
	@find csrc tests/cpp benchmarks -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu' | \
	  xargs -r $(VENV)/bin/clang-format -i

clean:  ## delete what was built; the virtual environment stays
	@echo "clean: deleting build/, the compiled module and the caches"
	@rm -rf build dist *.egg-info fastcells/_C.*.so fastcells/_build_info.json $(BUILT)
	@rm -rf .pytest_cache .ruff_cache .hypothesis
