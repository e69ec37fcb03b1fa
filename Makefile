# make run    installs what is missing, builds, and lets the demo model tell a story
# make test   installs what is missing, builds, and runs every test
#
# Everything else is Meson's: meson setup build, ninja -C build, meson install -C build.

MODEL ?= models/tiny-moe-q4_0.gguf
PROMPT ?= Once upon a time there was a king who had a golden

run:
	@scripts/install-dependencies run
	@scripts/build build lode
	@printf '%s' "$(PROMPT)"
	@build/lode run -m "$(MODEL)" -p "$(PROMPT)" -n 150 --temp 0.6 --seed 6

test:
	@scripts/install-dependencies test
	@scripts/test

.PHONY: run test
