# Two commands do everything on a fresh machine: `make repro` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
# DVC starts the stages with the `python` that it finds on PATH. The recipes start their own commands
# from $(BIN): GNU make 3.81, which macOS has, looks for them on the PATH that it was started with.
export PATH := $(CURDIR)/$(BIN):$(PATH)
# DVC keeps pickles in a folder that every user of the machine may write into, unless another is set.
ifndef DVC_SITE_CACHE_DIR
export DVC_SITE_CACHE_DIR := $(CURDIR)/.dvc/tmp/site
endif

.PHONY: help repro test verify faults repair check fast accurate fashion seeds search experiments draw offline-plots lock clean

help:                    ## say what there is
	@sed -n 's/^\([a-z-]*\):[^#]*## /make \1|/p' Makefile | \
	  while IFS='|' read -r name what; do printf '%-20s  %s\n' "$$name" "$$what"; done

repro: .venv/built         ## run the pipeline: what has changed, and no more
	$(BIN)/dvc repro

# Older versions of Keras, each in a folder of its own: tests/keras/VERSION.txt.
OTHER_KERAS := $(patsubst tests/keras/%.txt,.venv/keras-%,$(wildcard tests/keras/*.txt))

# Three at a time on two cores: some tests wait.
test: .venv/built .venv/browser $(OTHER_KERAS) ## run the tests; may install a browser for them (as root, by apt-get)
	$(BIN)/pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder

verify: .venv/built        ## prove that the committed results are what the committed code gives
	$(BIN)/python -m tools.verify

faults: .venv/built .venv/development ## break the pipeline on purpose: kills, full disks, damaged and hostile files
	$(BIN)/python -m tests.faults

repair: .venv/run        ## remove what is damaged in DVC's cache and outputs
	$(BIN)/python -m tools.repair

check: .venv/development ## lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Made again where it is not whole, its Python is gone, or another one is asked for.
WHOLE := $(shell test -x $(BIN)/python && test -f .venv/run && echo yes)
ASKED := $(filter command environment,$(origin PYTHON))
INSTALL = $(if $(ASKED),$(PYTHON),$(if $(WHOLE),$(BIN)/python,$(PYTHON))) tools/environment.py

.venv/run: requirements.txt $(if $(ASKED),again,$(if $(WHOLE),,again))
	@$(INSTALL) $< $@
.PHONY: again

# The arithmetic, in C: a few seconds.
.venv/built: $(wildcard cnn/kernels/*.[ch]) cnn/kernels/build.py requirements-compiler.txt .venv/run
	@$(BIN)/python -m tools.kernels
	@touch $@

.venv/development: requirements-dev.txt .venv/run
	@$(INSTALL) $< $@

.venv/search: requirements-search.txt .venv/run
	@$(INSTALL) $< $@

# The tests drive one: found, or installed, before the suite starts.
.venv/browser: .venv/development
	@$(BIN)/python -m tools.browser --install > $@.path && mv $@.path $@ || { rm -f $@.path; exit 1; }

.venv/keras-%: tests/keras/%.txt .venv/run
	@rm -rf $@ $@.partial
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
	  --target $@.partial -r $<
	@touch $@.partial && mv $@.partial $@

# Recipes: sets of parameters in recipes/, each run as a DVC experiment that bears its name.
fast: .venv/built          ## run the recipe for 99 % in a few seconds, as an experiment
accurate: .venv/built      ## run the recipe for 99.67 %, in a tenth more than fit's time
fashion: .venv/built       ## run the default, without moves, on Fashion-MNIST
fast accurate fashion:
	$(BIN)/python -m tools.recipe $@

experiments: .venv/run   ## show the experiments: metrics and the parameters that differ
	$(BIN)/dvc exp show --no-pager --hide-workspace --only-changed --sort-by accuracy --sort-order desc \
	  --drop '.*/|.*\.yaml|.*_low|.*_high|Created|State|Executor'

seeds: .venv/built         ## train RECIPE (default: params.yaml) with N=10 seeds, JOBS at a time
	$(BIN)/python -m tools.seeds $(RECIPE) $(if $(N),--n $(N)) $(if $(JOBS),--jobs $(JOBS))

search: .venv/built .venv/search ## try N=40 sets of parameters of SPACE (default: searches/learning-rate.yaml)
	$(BIN)/python -m tools.search $(or $(SPACE),searches/learning-rate.yaml) $(if $(N),--trials $(N)) $(if $(JOBS),--jobs $(JOBS))

draw: .venv/built          ## draw a digit in the browser and see it read
	$(BIN)/python -m handwriting.draw

offline-plots: .venv/development ## let `dvc plots` draw without a network, in this clone
	$(BIN)/python -m tools.offline_plots

COMPILE := $(BIN)/uv pip compile --quiet --universal --generate-hashes --fork-strategy fewest \
  --python-version 3.11 --custom-compile-command 'make lock' \
  $(if $(package),--upgrade-package $(package),--upgrade)
lock: .venv/development  ## take the newest versions that the .in files admit; package=NAME: one
	$(COMPILE) requirements-uv.in --output-file requirements-uv.txt
	$(COMPILE) requirements.in --output-file requirements.txt
	$(COMPILE) requirements-remotes.in --output-file requirements-remotes.txt
	$(COMPILE) requirements-export.in --output-file requirements-export.txt
	$(COMPILE) requirements-search.in --output-file requirements-search.txt
	$(COMPILE) requirements-parquet.in --output-file requirements-parquet.txt
	$(COMPILE) requirements-heic.in --output-file requirements-heic.txt
	$(COMPILE) requirements-dev.in --output-file requirements-dev.txt
	$(COMPILE) requirements-compiler.in --output-file requirements-compiler.txt
	$(INSTALL) requirements.txt .venv/run
	$(BIN)/python -m tools.packages

clean:                   ## remove the environment
	rm -rf .venv
