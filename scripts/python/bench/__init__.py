"""Weir beside nginx and HAProxy, in one run: `scripts/bench`."""
