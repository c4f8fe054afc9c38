PYTHON ?= python3

.DEFAULT_GOAL := help
.PHONY: help setup setup-test demo test test-fast bench pins clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 20

setup:  ## virtual environment with pinned requirements, collection linked
	@$(PYTHON) tools/setup.py requirements.txt

demo: setup  ## back up a live LMDB application and prove that the backup restores
	@.venv/bin/python demo/demo.py

setup-test:  ## the same with all that the tests need
	@$(PYTHON) tools/debian.py zstd=zstd mdb_copy=lmdb-utils git=git shellcheck=shellcheck faketime=faketime sqlite3=sqlite3 pg_ctlcluster=postgresql musl-gcc=musl-tools \
		/usr/sbin/mkfs.xfs=xfsprogs /usr/bin/btrfs=btrfs-progs setfacl=acl \
		java=default-jre-headless clojure=clojure /usr/share/java/nrepl.jar=libnrepl-clojure npm=npm
	@$(PYTHON) tools/setup.py requirements-test.txt

test: setup-test  ## every stage of the tests, with a table at the end
	@.venv/bin/python tools/stages.py

test-fast: setup-test  ## without the slow stages, for daily work
	@.venv/bin/python tools/stages.py --tags fast

bench: setup-test  ## compare speed and memory with mdb_copy, zstd, tar, cp, sqlite3, spit and restic
	@$(PYTHON) tools/debian.py restic=restic
	@$(PYTHON) tools/setup.py requirements-chroma.txt .venv-chroma
	@code=0; for name in lmdb chroma nrepl retention; do .venv/bin/python bench/$$name.py || code=1; done; exit $$code

pins: setup-test  ## record what the requirements bring along
	@.venv/bin/python -m pip freeze > constraints.txt
	@$(PYTHON) tools/setup.py requirements-importer.txt .venv-importer
	@.venv-importer/bin/python -m pip freeze > constraints-importer.txt
	@$(PYTHON) tools/setup.py requirements-chroma.txt .venv-chroma
	@.venv-chroma/bin/python -m pip freeze > constraints-chroma.txt
	@for name in basilisp datalevin; do $(PYTHON) tools/setup.py requirements-$$name.txt .venv-$$name && \
		.venv-$$name/bin/python -m pip freeze > constraints-$$name.txt || exit 1; done
	@npm install --prefix tests/fixtures/nrepl_servers --package-lock-only --ignore-scripts --no-audit --no-fund

clean:  ## remove all that the other commands made
	rm -rf .venv .venv-* .ansible .cache .*_cache .hypothesis build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
