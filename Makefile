PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

.PHONY: help demo imagenette voc test test-slow test-all check docs bench clean

help:
	@echo "make demo   learn features from bundled photographs, judge them, color images (minutes)"
	@echo "make imagenette IMAGES=imagenette-96   the table of docs/evaluation.md: 3 seeds (about 50 minutes on 2 cores)"
	@echo "make voc VOC=VOCdevkit RUN=runs/x LABELS=runs/y   the tables of docs/finetuning.md (about 30 minutes on 2 cores)"
	@echo "make test   run the fast tests (6 to 7 minutes on 2 quiet cores)"
	@echo "make test-slow   run the slow tests alone; make test-all runs both"
	@echo "make check  run the linter and the type checker"
	@echo "make docs   build the documentation as a site, in site/; a broken link is an error"
	@echo "make bench  measure speed, as ratios"

demo: $(INSTALLED)
	@$(BIN)/pretint demo

# Random, colorization and labels, 3 seeds each. Stopped and called again it goes on.
imagenette: $(INSTALLED)
	@test -d "$(IMAGES)/train" -a -d "$(IMAGES)/val" || \
	    { echo "make imagenette IMAGES=FOLDER: a folder with train/ and val/, one sub-folder per class in each" >&2; exit 2; }
	set -e; for seed in 0 1 2; do for run in rebalanced:colorization labels:supervised; do \
	    $(BIN)/pretint pretrain runs/imagenette/$${run%:*}-$$seed --config configs/pretext/laptop.yaml \
	        --data.source "$(IMAGES)/train" --training.steps 5000 --method.name $${run#*:} --seed $$seed; \
	done; done
	$(BIN)/pretint probe runs/imagenette/rebalanced-* runs/imagenette/labels-* \
	    --train "$(IMAGES)/train" --test "$(IMAGES)/val"

# A pretrained run and a supervised one (made by make imagenette, say) on three tasks, beside random weights, plain
# and rescaled. Stopped and called again it goes on.
TUNED = $(RUN) $(LABELS) rescaled:random:$(RUN)
voc: $(INSTALLED)
	@test -d "$(VOC)" -a -e "$(RUN)" || \
	    { echo "make voc VOC=VOCdevkit RUN=runs/x [LABELS=runs/y]: the devkit's folder, and pretrained runs" >&2; exit 2; }
	set -e; for stage in conv5 ""; do \
	    $(BIN)/pretint finetune classify $(TUNED) --config configs/transfer/laptop_classify.yaml --freeze-to "$$stage" \
	        --train "voc:2007:trainval:$(VOC)" --test "voc:2007:test:$(VOC)"; \
	done
	$(BIN)/pretint finetune detect $(TUNED) --config configs/transfer/laptop_detect.yaml \
	    --train "voc:2007:trainval:$(VOC)+voc:2012:trainval:$(VOC)" --test "voc:2007:test:$(VOC)"
	$(BIN)/pretint finetune segment $(TUNED) --config configs/transfer/laptop_segment.yaml \
	    --train "voc:2012:train:$(VOC)" --test "voc:2012:val:$(VOC)"

# A process per core and four more (some wait: for Slurm, for a kill), and one thread in each. The tests of one file
# run in one process, because they share fixtures.
PROCESSES = $$(($$(getconf _NPROCESSORS_ONLN) + 4))
PYTEST = OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(PROCESSES) --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test: $(INSTALLED)
	$(PYTEST) -m "not slow"

test-slow: $(INSTALLED)
	$(PYTEST) -m slow

# One run, not one after the other: at the end of each a process would wait for the last file of the others.
test-all: $(INSTALLED)
	$(PYTEST) --durations 40

check: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv site .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Pretint needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@
