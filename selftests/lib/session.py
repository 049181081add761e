# SPDX-License-Identifier: GPL-2.0
"""What most files of tests have in common: module loaded before, unloaded after, nothing left behind."""

from . import baseline, ktap, peers, squall


def main():
    """Runs the declared cases between loading and unloading the module, then checks the base line."""
    state = {}

    def setup():
        state["base"], state["objects"] = baseline.Baseline(), baseline.objects()
        squall.load()

    @ktap.case("after all this the module unloads and no socket is left", limit=60)
    def _nothing_left():
        peers.end_all()
        squall.unload()
        state["base"].check()
        # A leak per connection or request shows; what the system itself gets to keep in that time was 172 at most.
        baseline.check_objects(state["objects"], state["objects"], 500)

    ktap.at_end(squall.unload)
    ktap.main(setup, always=_nothing_left)
