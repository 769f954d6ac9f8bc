# Each target makes its own virtual environment first; Python 3.11 with venv is all that must be there.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
# QUICK=1 runs a short demo: fewer images and epochs, and only the checks that hold for those.
QUICK ?=

.PHONY: demo test test-slow cuda lint env bench papers papers-readme fuzz readme clean

env: $(STAMP)

# torch by itself and first: a range that another package asks for would bring a build with several GB of CUDA.
# The native kernels are compiled by the install, where there is a C++ compiler.
$(STAMP): constraints.txt pyproject.toml kernels/CMakeLists.txt $(wildcard kernels/cpu/* kernels/python/* kernels/ort/* kernels/include/*)
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev,all]'
	touch $@

demo: $(STAMP)
	$(BIN)/python benchmarks/demo.py $(if $(QUICK),--quick)

# Two processes with one thread each: BLAS threads of two processes on two cores only get in each other's way.
# `test` takes some minutes; `test-slow` is the rest: every method with every other example of its settings, the kills.
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --durations=20

test: $(STAMP)
	$(PYTEST) -m "not slow"

test-slow: $(STAMP)
	$(PYTEST) -m slow

# Compiles the CUDA kernels for all architectures; a warning or a spilled register is an error. Needs no GPU.
CUDA_LIBRARY := kernels/compressor_kernels/_native_cuda.so
NVCC := $(shell command -v nvcc || ls $${CUDA_HOME:-/usr/local/cuda}/bin/nvcc 2>/dev/null)

cuda: $(if $(NVCC),$(CUDA_LIBRARY))
	@$(if $(NVCC),cat $(CUDA_LIBRARY).txt,echo "SKIPPED: the CUDA kernels were not compiled, there is no nvcc")

$(CUDA_LIBRARY): $(wildcard kernels/cuda/* kernels/include/*) kernels/compressor_kernels/build_cuda.py
	$(PYTHON) kernels/compressor_kernels/build_cuda.py

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The papers' experiments; each writes benchmarks/results/*.json, which the README's tables are made of.
bench: $(STAMP)
	$(BIN)/python benchmarks/demo.py --keep $(if $(QUICK),--quick)
	$(BIN)/python benchmarks/linear_recovery.py $(if $(QUICK),--quick)
	$(BIN)/python benchmarks/caffe_lenet.py $(if $(QUICK),--quick)
	$(BIN)/python benchmarks/caffe_lenet.py --every $(if $(QUICK),--quick)
	$(BIN)/python benchmarks/caffe_lenet.py --onnx $(if $(QUICK),--quick)
	$(BIN)/python benchmarks/onnx_files.py $(if $(QUICK),--quick)
	$(BIN)/python benchmarks/layer_fit.py $(if $(QUICK),--quick)
	$(BIN)/python benchmarks/vectors.py $(if $(QUICK),--quick)
	$(BIN)/python benchmarks/lstm.py $(if $(QUICK),--quick)
	$(BIN)/python benchmarks/minilm.py $(if $(QUICK),--quick)
	$(BIN)/python benchmarks/onnx_versions.py $(if $(QUICK),--quick)
	$(BIN)/python benchmarks/hugging_face.py $(if $(QUICK),--quick)
	$(BIN)/python benchmarks/scale.py $(if $(QUICK),--quick)
	$(BIN)/python benchmarks/scale.py --onnx $(if $(QUICK),--quick)

# Lists the experiments of the sources with their times; RUN="name name" runs some. What was broken off is taken up again.
RUN ?=

papers: $(STAMP)
	$(BIN)/python benchmarks/papers/run.py $(RUN) $(if $(QUICK),--quick)

papers-readme: $(STAMP)
	$(BIN)/python benchmarks/papers/page.py

# Every loader, SECONDS long in all, on inputs that a coverage-guided fuzzer makes; what breaks one is kept.
SECONDS ?= 60
fuzz: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[fuzz]'
	cd tests/fuzz && OMP_NUM_THREADS=1 ../../$(BIN)/python run.py --seconds $(SECONDS)

readme: $(STAMP)
	$(BIN)/python benchmarks/update_readme.py

clean:
	rm -rf $(VENV) .demo demo-out
