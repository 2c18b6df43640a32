"""External suites and hostile clients against a running gateway: `scripts/conformance`."""
