# SPDX-License-Identifier: GPL-2.0
"""What most files of tests have in common: module loaded before, unloaded after, nothing left behind."""

from . import baseline, ktap, peers, squall


def main():
    """Runs the declared cases between loading and unloading the module, then checks the base line."""
    state = {}

    def setup():
        state["base"] = baseline.Baseline()
        squall.load()

    @ktap.case("after all this the module unloads and no socket is left", limit=60)
    def _nothing_left():
        peers.end_all()
        squall.unload()
        state["base"].check()

    ktap.at_end(squall.unload)
    ktap.main(setup, always=_nothing_left)
