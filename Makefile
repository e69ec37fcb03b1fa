# make run    installs what is missing, builds, and lets the demo model tell a story
# make test   installs what is missing, builds, and runs every test
#
# Everything else is Meson's: meson setup build, ninja -C build, meson install -C build.

PROMPT ?= Once upon a time there was a king who
BUILD ?= build

run:
	@scripts/install-dependencies run
	@scripts/build $(BUILD)
	@printf '%s' "$(PROMPT)"; $(BUILD)/lode run -p "$(PROMPT)" -n 200 --temp 0.7 --seed 7

test:
	@scripts/install-dependencies test
	@scripts/test

.PHONY: run test
