"""What changed between two models of one topic, or between two topics that a crosswalk connects."""
