"""Every reader of foreign bytes, held to its promises on any bytes: by a coverage-guided fuzzer, and by replaying its corpus.

`python -m tests.fuzz` fuzzes, `pytest tests/fuzz` replays. README.md says what each target holds and how to add one.
"""
